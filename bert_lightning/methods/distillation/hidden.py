"""Distillation of hidden states: TinyBERT, patient distillation (PKD), and the cosine loss of DistilBERT."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bert_lightning.checks import require_positive
from bert_lightning.data.loading.batching import Batch
from bert_lightning.methods.distillation.layer_maps import LayerMap, check_layer_map, pairs_of
from bert_lightning.methods.distillation.term import Needs, Rows, in_one_type
from bert_lightning.model import BertConfig
from bert_lightning.model.initialization import initialize
from bert_lightning.model.recording import Recording

Metric = Literal["mse", "normalized-mse", "cosine"]


@dataclass(frozen=True)
class HiddenSettings:
    """The distance of hidden states, averaged over tokens and summed over the compared blocks.

    `{layers: uniform, embeddings: true}` is TinyBERT's loss (Jiao et al. 2020, arXiv 1909.10351, equations 8 and 9).
    `{layers: skip, metric: normalized-mse, tokens: cls}` is that of PKD (Sun et al. 2019, arXiv 1908.09355, equation
    7). `{layers: top, metric: cosine}` is that of DistilBERT (Sanh et al. 2019, arXiv 1910.01108, section 2).

    Attributes:
        weight: factor on the loss.
        layers: which block of the teacher each block of the student learns from. uniform, skip, last, top, or a list
            with the number of the teacher's block (from 0) for each block of the student; null leaves one out.
        embeddings: whether the embeddings, the input of the first block, are compared too.
        metric: mse, the mean squared difference over features; normalized-mse, the same after each vector is scaled
            to length 1; cosine, 1 minus the cosine.
        tokens: all, or cls for only the first token of each sequence.
        projection: a trained linear layer from the width of the student to that of the teacher, one for each compared
            pair: auto if the widths differ, always, or never.
    """

    weight: float = 1.0
    layers: LayerMap = "uniform"
    embeddings: bool = False
    metric: Metric = "mse"
    tokens: Literal["all", "cls"] = "all"
    projection: Literal["auto", "always", "never"] = "auto"

    def __post_init__(self) -> None:
        require_positive(self, "weight")
        check_layer_map(self.layers)

    def build(self, student: BertConfig, teacher: BertConfig) -> "HiddenTerm":
        """Build the loss, with new projections if there are any."""
        pairs = pairs_of(self.layers, student.num_hidden_layers, teacher.num_hidden_layers)
        states = {mine + 1: theirs + 1 for mine, theirs in pairs.items()}
        if self.embeddings:
            states = {0: 0, **states}
        differ = student.hidden_size != teacher.hidden_size
        if differ and self.projection == "never":
            raise ValueError(
                f"projection is never, but the student has hidden size {student.hidden_size} and the teacher "
                f"{teacher.hidden_size}: use auto"
            )
        projections = nn.ModuleDict()
        if differ or self.projection == "always":
            for number in states:
                projections[str(number)] = Projection(student.hidden_size, teacher.hidden_size)
            initialize(projections, student.initializer_range)
        return HiddenTerm(self, states, projections)


class Projection(nn.Linear):
    """A linear layer (..., H) -> (..., teacher's H), in the type of its weights."""

    def forward(self, hidden: Tensor) -> Tensor:
        return super().forward(hidden.to(self.weight.dtype))


class HiddenTerm:
    """The loss that `HiddenSettings` describes.

    Args:
        settings: metric and tokens.
        states: number of a hidden state of the student -> that of the teacher.
        projections: a layer for each of them, by its number as text; empty if the widths are equal.
    """

    names = ("hidden_loss",)

    def __init__(self, settings: HiddenSettings, states: dict[int, int], projections: nn.ModuleDict) -> None:
        self.settings = settings
        self.weight = settings.weight
        self.states = states
        self.student, self.teacher = Needs(states=states.keys()), Needs(states=states.values())
        self.projections = projections

    def counts(self, batch: Batch) -> list[int]:
        """Return the number of tokens, or of sequences for `tokens: cls`."""
        return [batch["num_tokens"] if self.settings.tokens == "all" else batch["num_sequences"]]

    def sums(self, student: Recording, teacher: Recording, rows: Rows) -> list[Tensor]:
        """Return the distances, summed over tokens and compared pairs."""
        of_all = self.settings.tokens == "all"
        distance = DISTANCES[self.settings.metric]
        total = []
        for mine, theirs in self.states.items():
            vectors, expected = in_one_type(student.states[mine], teacher.states[theirs])
            if not of_all:
                vectors, expected = rows.firsts(vectors), rows.firsts(expected)
            if self.projections:
                vectors = self.projections[str(mine)](vectors).to(expected.dtype)
            distances = distance(vectors, expected)
            total.append(rows.sum_over_tokens(distances) if of_all else rows.sum_over_sequences(distances))
        return [torch.stack(total).sum()]


def _mse(vectors: Tensor, expected: Tensor) -> Tensor:
    return (vectors - expected).square().mean(-1)


def _normalized_mse(vectors: Tensor, expected: Tensor) -> Tensor:
    return _mse(F.normalize(vectors, dim=-1), F.normalize(expected, dim=-1))


def _cosine(vectors: Tensor, expected: Tensor) -> Tensor:
    # 1 - cos = |u - v|^2 / 2 for vectors of length 1. In this form, equal vectors have exactly the gradient 0.
    return (F.normalize(vectors, dim=-1) - F.normalize(expected, dim=-1)).square().sum(-1) / 2


DISTANCES: dict[Metric, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": _mse,
    "normalized-mse": _normalized_mse,
    "cosine": _cosine,
}
"""Value of `metric` -> function from two (..., H) to (...)."""
