"""The protocol of losses on inner states, and the rows of recorded tensors that are tokens."""

from collections.abc import Collection, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from bert_lightning.data.loading.batching import Batch
from bert_lightning.model import BertConfig
from bert_lightning.model.layers.packing import Packing, pad
from bert_lightning.model.recording import Recording


class Needs(NamedTuple):
    """The hidden states and blocks that a loss reads from the recording of one model."""

    states: Collection[int] = ()
    """the numbers of hidden states: 0 for the embeddings, k + 1 for block k"""
    blocks: Collection[int] = ()
    """the numbers of blocks whose queries, keys and values it reads"""


class Rows(NamedTuple):
    """Which rows of the recorded tensors of a micro-batch are tokens. Nothing here waits for the device."""

    tokens: Tensor | None
    """(B, S) bool: True at real tokens; None if all are, or if the micro-batch is packed"""
    sequences: Tensor | None
    """(B,) bool: True at sequences that exist; None if all do"""
    packing: Packing | None

    @classmethod
    def of(cls, batch: Batch) -> "Rows":
        """Return the rows of a micro-batch; each choice of a question is a sequence."""
        packing = batch.get("packing")
        if packing is not None:
            return cls(None, None, packing)
        mask, choices = batch.get("attention_mask"), batch.get("choice_mask")
        tokens = None if mask is None else mask.flatten(0, -2).bool()
        if choices is None:
            return cls(tokens, None, None)
        sequences = choices.flatten()
        shape = batch["input_ids"].flatten(0, -2).shape
        return cls(
            sequences[:, None] & (tokens if tokens is not None else sequences.new_ones(shape)), sequences, None
        )

    def sum_over_tokens(self, values: Tensor) -> Tensor:
        """Sum one value per token, (B, S) or (T,), over the real ones: ()."""
        return (values if self.tokens is None else torch.where(self.tokens, values, 0)).sum()

    def sum_over_sequences(self, values: Tensor) -> Tensor:
        """Sum one value per sequence, (B,), over those that exist: ()."""
        return (values if self.sequences is None else torch.where(self.sequences, values, 0)).sum()

    def firsts(self, recorded: Tensor) -> Tensor:
        """Return (B, ...) the first token of each sequence, [CLS], of (B, S, ...) or (T, ...)."""
        return recorded[:, 0] if self.packing is None else recorded[self.packing.firsts]

    def by_sequence(self, recorded: Tensor) -> Tensor:
        """Return recorded values as (B, S, ...). Packed ones, (T, ...), are padded."""
        return recorded if self.packing is None else pad(recorded, self.packing)[0]

    def keys(self, length: int) -> Tensor | None:
        """Return (B, S) bool: the tokens of each sequence of `by_sequence`; None if no row is padded."""
        if self.packing is None:
            return self.tokens
        columns = torch.arange(length, device=self.packing.boundaries.device)
        return columns < self.packing.lengths[:, None]


class Term(Protocol):
    """One kind of loss on inner states of student and teacher.

    Attributes:
        names: the names of its losses, without `distillation_`.
        weight: factor on each of them.
        student: what it reads of the student.
        teacher: what it reads of the teacher.
        projections: layers that train together with the student.
    """

    names: Sequence[str]
    weight: float
    student: Needs
    teacher: Needs
    projections: nn.ModuleDict

    def counts(self, batch: Batch) -> list[int]:
        """Return the divisor of each loss, known without the models."""

    def sums(self, student: Recording, teacher: Recording, rows: Rows) -> list[Tensor]:
        """Return each loss, summed over what is counted."""


class TermSettings(Protocol):
    """The settings of a kind of loss: a frozen dataclass, whose fields are the keys."""

    def build(self, student: BertConfig, teacher: BertConfig) -> Term:
        """Build the loss for two architectures.

        Raises:
            ValueError: the settings do not fit them. The message begins with the name of the field.
        """


def in_one_type(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Return both in the wider of their types and in at least float32, in which differences are exact enough."""
    kind = torch.promote_types(torch.promote_types(student.dtype, teacher.dtype), torch.float32)
    return student.to(kind), teacher.to(kind)
