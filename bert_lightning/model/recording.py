"""Inner states that a forward pass of an encoder computes, recorded for a loss or an analysis."""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor


class Recording:
    """Hidden states, queries, keys and values of one forward pass; `BertEncoder.recorded` fills it.

    The tensors carry gradients, so that a loss can be computed from them. They are arranged like the input, (B, S,
    ...) or packed (T, ...). What they hold at padding has no meaning.

    Attributes:
        states: number -> (B, S, H): 0 is the input of the first block, k + 1 the output of block k.
        query_key_value: number of a block from 0 -> (B, S, 3 H), before they are split into heads.

    Args:
        states: the numbers of the hidden states to record.
        blocks: the numbers of the blocks whose queries, keys and values are recorded.

    >>> from bert_lightning.model import BertConfig, BertEncoder
    >>> encoder, recording = BertEncoder(BertConfig.preset("tiny", vocab_size=100)), Recording(states=[2], blocks=[0])
    >>> with encoder.recorded(recording):
    ...     output = encoder(torch.tensor([[2, 5, 6, 3]]))
    >>> torch.equal(recording.states[2], output.last_hidden_state), tuple(recording.query_key_value[0].shape)
    (True, (1, 4, 384))
    """

    def __init__(self, states: Collection[int] = (), blocks: Collection[int] = ()) -> None:
        self.recorded_states = tuple(sorted({*states}))
        self.recorded_blocks = tuple(sorted({*blocks}))
        self.states: dict[int, Tensor] = {}
        self.query_key_value: dict[int, Tensor] = {}

    def clear(self) -> None:
        """Let go of all tensors."""
        self.states, self.query_key_value = {}, {}

    def take(self, states: Sequence[Tensor], query_key_value: dict[int, Tensor], num_tokens: int | None) -> None:
        """Store the tensors of a forward pass, without the rows after `num_tokens` that round a packed input."""
        self.states = {number: states[number][:num_tokens] for number in self.recorded_states}
        self.query_key_value = {number: each[:num_tokens] for number, each in query_key_value.items()}

    def pad(self, indices: Tensor, shape: torch.Size) -> None:
        """Undo the packing of an input that the encoder packed itself: (T, ...) -> (B, S, ...)."""

        def padded(packed: Tensor) -> Tensor:
            full = packed.new_zeros(shape.numel(), packed.shape[-1]).index_copy(0, indices, packed)
            return full.unflatten(0, shape)

        self.states = {number: padded(each) for number, each in self.states.items()}
        self.query_key_value = {number: padded(each) for number, each in self.query_key_value.items()}
