"""Losses of the task models, one value per sequence; the caller chooses how to average them."""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = -100
"""The label that is not scored, as in `torch.nn.functional.cross_entropy`."""

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
    """Return the loss of each sequence, (B, L) and labels -> (B,), in float32 at least.

    `single_label_classification`: cross-entropy, labels (B,). `multi_label_classification`: the mean over labels of
    the binary cross-entropy, labels (B, L) of 0 and 1. `regression`: the mean squared error over the outputs, labels
    (B, L), or (B,) if L is 1. The names and formulas are those of transformers.

    Raises:
        ValueError: the labels have another shape.

    >>> sequence_losses(torch.tensor([[0.0, 0.0], [1.0, 3.0]]), torch.tensor([0, 1]), "single_label_classification")
    tensor([0.6931, 0.1269])
    """
    return _SEQUENCE_LOSSES[problem_type](logits.to(torch.promote_types(logits.dtype, torch.float32)), labels)


def span_losses(
    start_logits: Tensor, end_logits: Tensor, starts: Tensor, ends: Tensor, attention_mask: Tensor | None = None
) -> Tensor:
    """Return the mean of the two cross-entropies: (B, S) x 2 and positions (B,) x 2 -> (B,).

    The original is `run_squad.py: compute_loss`. A position outside the window (below 0, or S and above) does not
    count. In the original the softmax includes padding. With the mask it does not, so the amount of padding has no
    effect.

    Raises:
        ValueError: the shape of an argument does not fit `start_logits`; the message names it.
    """
    shape = tuple(start_logits.shape)
    for name, tensor, expected in (
        ("end_logits", end_logits, shape),
        ("starts", starts, shape[:1]),
        ("ends", ends, shape[:1]),
        ("attention_mask", attention_mask, shape),
    ):
        if tensor is not None and tuple(tensor.shape) != expected:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}; expected {expected}, because start_logits has shape {shape}"
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
        raise ValueError(f"labels have shape {tuple(labels.shape)}, but logits have shape {tuple(logits.shape)}")
    return labels


def _targets(logits: Tensor, labels: Tensor) -> Tensor:
    if labels.dim() == 1 and logits.shape[1] == 1:
        labels = labels[:, None]
    if labels.shape != logits.shape:
        raise ValueError(f"labels have shape {tuple(labels.shape)}, but logits have shape {tuple(logits.shape)}")
    return labels.to(logits.dtype)
