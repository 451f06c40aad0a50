"""Losses of the task models, one value an example, so that whoever trains chooses what to divide by."""

import torch.nn.functional as F
from torch import Tensor

IGNORED = -100
"""The label of what has none, as in `torch.nn.functional.cross_entropy`."""


def sequence_losses(logits: Tensor, labels: Tensor, problem_type: str) -> Tensor:
    """(B, L) and labels -> (B,).

    `single_label_classification`: cross-entropy, labels (B,). `multi_label_classification`: the mean over labels of
    the binary cross-entropy, labels (B, L) of 0 and 1. `regression`: the mean squared error over the outputs, labels
    (B, L), or (B,) where L is 1. The names and the formulas are transformers'.
    """
    if problem_type == "single_label_classification":
        return F.cross_entropy(logits, labels, reduction="none")
    targets = labels.to(logits.dtype).view_as(logits)
    if problem_type == "multi_label_classification":
        return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(-1)
    return F.mse_loss(logits, targets, reduction="none").mean(-1)


def span_losses(start_logits: Tensor, end_logits: Tensor, starts: Tensor, ends: Tensor) -> Tensor:
    """(B, S) x 2 and positions (B,) x 2 -> (B,): the mean of the two cross-entropies; `run_squad.py: compute_loss`.

    A position outside the window (less than 0, or S or more) counts nothing.
    """
    length = start_logits.shape[1]

    def losses(logits: Tensor, positions: Tensor) -> Tensor:
        inside = (positions >= 0) & (positions < length)
        return F.cross_entropy(
            logits, positions.masked_fill(~inside, IGNORED), reduction="none", ignore_index=IGNORED
        )

    return (losses(start_logits, starts) + losses(end_logits, ends)) / 2
