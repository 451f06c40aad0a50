"""Context managers that change or record the forward passes of an encoder inside any model."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from bert_lightning.model.config import BertConfig
from bert_lightning.model.layers.block import BertLayer
from bert_lightning.model.layers.front import Front
from bert_lightning.model.pretrained import PretrainedModel
from bert_lightning.model.recording import Recording


class ObservableEncoder(PretrainedModel):
    """Base of the encoder, with context managers that change or record its forward passes.

    They need no argument of `forward`, so a method such as distillation works with every task and head.

    Attributes:
        layers: the Transformer blocks.
    """

    layers: nn.ModuleList

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self._perturbation: Tensor | None = None
        self._recording: Recording | None = None
        self._skips_padding = False

    @contextmanager
    def perturbed(self, perturbation: Tensor) -> Iterator[None]:
        """Add a tensor to the embeddings in every forward pass of the context, whichever model makes it.

        Its gradient is that of the embeddings, so a tensor of zeros measures it. A change at padding has no effect.

        Args:
            perturbation: (B, S, H) or (T, H), or another shape with as many values in the same order.
        """
        before, self._perturbation = self._perturbation, perturbation
        try:
            yield
        finally:
            self._perturbation = before

    @contextmanager
    def recorded(self, recording: Recording) -> Iterator[None]:
        """Record inner states of each forward pass of the context, whichever model makes it; the last pass is kept.

        Every backend and layout works, because queries, keys and values are recorded and not the weights of the
        attention. With a custom attention they are its inputs.

        Args:
            recording: says what is recorded, and receives it.
        """
        self._recording = recording
        blocks = [cast(BertLayer, self.layers[number]) for number in recording.recorded_blocks]
        for block in blocks:
            block.records = True
        try:
            yield
        finally:
            self._recording = None
            for block in blocks:
                block.records, block.query_key_value_output = False, None

    @contextmanager
    def without_padding(self) -> Iterator[None]:
        """Leave out padding where that is faster, also without gradients, as training does.

        The hidden states at padding are 0 then. By default they are those that transformers computes.
        """
        before, self._skips_padding = self._skips_padding, True
        try:
            yield
        finally:
            self._skips_padding = before

    def _perturbed(self, hidden: Tensor, input_ids: Tensor, indices: Tensor | None = None) -> Tensor:
        """Add the perturbation of `input_ids` to embeddings of all of them, or of those at indices (T,)."""
        if self._perturbation is None:
            return hidden
        expected = (*input_ids.shape, hidden.shape[-1])
        if self._perturbation.numel() != input_ids.numel() * hidden.shape[-1]:
            raise ValueError(
                f"the perturbation has shape {tuple(self._perturbation.shape)}, but the embeddings {expected}"
            )
        perturbation = self._perturbation.to(hidden.dtype).view(-1, hidden.shape[-1])
        if indices is not None:
            return hidden + perturbation[indices]
        rows = hidden.flatten(0, -2)
        return (rows + F.pad(perturbation, (0, 0, 0, len(rows) - len(perturbation)))).view_as(hidden)

    def _projected(self, recording: Recording, front: Front | None) -> dict[int, Tensor]:
        """Return the recorded queries, keys and values of the tokens: number of the block -> (..., 3 H)."""
        projected = {}
        for number in recording.recorded_blocks:
            values = cast(BertLayer, self.layers[number]).query_key_value_output
            assert values is not None, "the block was told to record"
            projected[number] = values if front is None else front.remove(values)
        return projected
