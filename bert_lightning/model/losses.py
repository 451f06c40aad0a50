"""Losses of the task models, one value an example, so that whoever trains chooses what to divide by."""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = -100
"""The label of what has none, as in `torch.nn.functional.cross_entropy`."""

ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]
_SEQUENCE_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "single_label_classification": lambda logits, labels: F.cross_entropy(
        logits, _classes(logits, labels), reduction="none"
    ),
    "multi_label_classification": lambda logits, labels: F.binary_cross_entropy_with_logits(
        logits, _targets(logits, labels), reduction="none"
    ).mean(-1),
    "regression": lambda logits, labels: F.mse_loss(logits, _targets(logits, labels), reduction="none").mean(-1),
}


def sequence_losses(logits: Tensor, labels: Tensor, problem_type: ProblemType) -> Tensor:
    """(B, L) and labels -> (B,), in float32 at least.

    `single_label_classification`: cross-entropy, labels (B,). `multi_label_classification`: the mean over labels of
    the binary cross-entropy, labels (B, L) of 0 and 1. `regression`: the mean squared error over the outputs, labels
    (B, L), or (B,) where L is 1. The names and the formulas are transformers'.

    Raises:
        ValueError: labels of another shape.
    """
    return _SEQUENCE_LOSSES[problem_type](logits.to(torch.promote_types(logits.dtype, torch.float32)), labels)


def span_losses(
    start_logits: Tensor, end_logits: Tensor, starts: Tensor, ends: Tensor, attention_mask: Tensor | None = None
) -> Tensor:
    """(B, S) x 2 and positions (B,) x 2 -> (B,): the mean of the two cross-entropies; `run_squad.py: compute_loss`.

    A position outside the window (less than 0, or S or more) counts nothing. As published the softmax runs over
    padding too; with the mask it does not, and no longer depends on how much there is.

    Raises:
        ValueError: the shape of an argument does not fit `start_logits`; the message names it.
    """
    shape = tuple(start_logits.shape)
    for name, given, expected in (
        ("end_logits", end_logits, shape),
        ("starts", starts, shape[:1]),
        ("ends", ends, shape[:1]),
        ("attention_mask", attention_mask, shape),
    ):
        if given is not None and tuple(given.shape) != expected:
            raise ValueError(
                f"{name} is of shape {tuple(given.shape)}; expected {expected}, since start_logits has shape {shape}"
            )
    length = shape[1]

    def losses(logits: Tensor, positions: Tensor) -> Tensor:
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if attention_mask is not None:
            logits = logits.masked_fill(attention_mask == 0, torch.finfo(logits.dtype).min)
        inside = (positions >= 0) & (positions < length)
        return F.cross_entropy(
            logits, positions.masked_fill(~inside, IGNORED), reduction="none", ignore_index=IGNORED
        )

    return (losses(start_logits, starts) + losses(end_logits, ends)) / 2


def _classes(logits: Tensor, labels: Tensor) -> Tensor:
    if labels.shape != logits.shape[:1]:
        raise ValueError(f"labels have the shape {tuple(labels.shape)}, but logits {tuple(logits.shape)}")
    return labels


def _targets(logits: Tensor, labels: Tensor) -> Tensor:
    if labels.dim() == 1 and logits.shape[1] == 1:
        labels = labels[:, None]
    if labels.shape != logits.shape:
        raise ValueError(f"labels have the shape {tuple(labels.shape)}, but logits {tuple(logits.shape)}")
    return labels.to(logits.dtype)
