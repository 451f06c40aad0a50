"""The output of the encoder."""

from typing import NamedTuple

import torch
from torch import Tensor


class EncoderOutput(NamedTuple):
    """Output of the encoder: hidden states, one vector per sequence, and on request the inner states."""

    last_hidden_state: Tensor
    """(B, S, H), or (T, H) if packed"""
    pooler_output: Tensor
    """(B, H), or (n, H) if packed"""
    hidden_states: tuple[Tensor, ...] | None = None
    """the embeddings and the output of each block, each with the shape of `last_hidden_state`"""
    attentions: tuple[Tensor, ...] | None = None
    """(B, N, S, S) for each block: attention probabilities before dropout; n instead of B if packed"""

    def padded(self, indices: Tensor, shape: torch.Size, order: Tensor | None) -> "EncoderOutput":
        """Pad packed output with zeros: (T, H) -> (B, S, H).

        The indices (T,) are into the B * S positions of `shape`. If the sequences were packed in another `order`
        (B,), the pooled vectors are put back into that of the input.
        """

        def pad(packed: Tensor) -> Tensor:
            full = packed.new_zeros(shape.numel(), packed.shape[-1]).index_copy(0, indices, packed)
            return full.unflatten(0, shape)

        states, pooled = self.hidden_states, self.pooler_output
        return EncoderOutput(
            pad(self.last_hidden_state),
            pooled if order is None else torch.empty_like(pooled).index_copy(0, order, pooled),
            tuple(map(pad, states)) if states is not None else None,
        )
