"""Losses of the task models, one value per counted item; the caller chooses how to average them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from bert_lightning.checks import require_at_least, require_below_one
from bert_lightning.model.parts import ContractError

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


class Loss(Protocol):
    """A loss over counted items, each of which is one of L classes. Implementations are frozen dataclasses.

    The items are texts, pieces of words, questions with choices, relations, or the ends of answers. A step divides
    the sum of their losses by their number in the whole batch, over all micro-batches and processes.
    """

    def losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return (N,) the loss of each item, from scores (N, L) in at least float32 and gold classes (N,).

        A class that an item cannot have, such as a choice that a question lacks, has the score minus infinity.
        """


@dataclass(frozen=True)
class CrossEntropy:
    """Cross-entropy, as published for BERT."""

    def losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits, targets, reduction="none")


@dataclass(frozen=True)
class LabelSmoothing:
    """Cross-entropy with the gold class mixed with the uniform distribution; Szegedy et al. 2016, section 7.

    The uniform distribution is over the classes that an item can have.

    Attributes:
        smoothing: the share of the uniform distribution; 0.1 as published.
    """

    smoothing: float = 0.1

    def __post_init__(self) -> None:
        require_below_one(self, "smoothing")

    def losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        log_probabilities = logits.log_softmax(-1)
        gold = -log_probabilities.gather(1, targets[:, None])[:, 0]
        possible = logits != -torch.inf
        uniform = -log_probabilities.masked_fill(~possible, 0).sum(1) / possible.sum(1)
        return (1 - self.smoothing) * gold + self.smoothing * uniform


@dataclass(frozen=True)
class Focal:
    """Focal loss (1 - p)^gamma (-log p) with the probability p of the gold class; Lin et al. 2017, equation 4.

    The factor alpha of equation 5 is a class weight, for which text classification has `data.class_weights`.

    Attributes:
        gamma: how strongly the weight of an item falls if it is already right with a high probability; 2 as
            published, 0 is the cross-entropy.
    """

    gamma: float = 2.0

    def __post_init__(self) -> None:
        require_at_least(self, 0, "gamma")

    def losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        log_probability = logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]
        # Keep it above 0, where the power has an infinite slope if gamma is below 1.
        others = (-torch.expm1(log_probability)).clamp(min=torch.finfo(logits.dtype).tiny)
        return -(others**self.gamma) * log_probability


LOSSES: dict[str, type[Loss]] = {"default": CrossEntropy, "label_smoothing": LabelSmoothing, "focal": Focal}
"""Value of the key `loss` -> its settings."""


_CROSS_ENTROPY = CrossEntropy()


def item_losses(loss: Loss, logits: Tensor, targets: Tensor) -> Tensor:
    """Return the loss of each item, (N, L) and (N,) -> (N,), in float32 at least.

    Raises:
        ContractError: the loss returns something else.

    >>> item_losses(CrossEntropy(), torch.tensor([[0.0, 0.0], [1.0, 3.0]]), torch.tensor([0, 1]))
    tensor([0.6931, 0.1269])
    """
    losses = loss.losses(logits.to(torch.promote_types(logits.dtype, torch.float32)), targets)
    name = f"loss: {type(loss).__name__}.losses"
    if not isinstance(losses, Tensor) or not losses.is_floating_point():
        kind = str(losses.dtype) if isinstance(losses, Tensor) else type(losses).__name__
        raise ContractError(f"{name} returned {kind}; expected a floating-point tensor with one loss per item")
    if losses.shape != targets.shape:
        raise ContractError(
            f"{name} returned the shape {tuple(losses.shape)}; expected {tuple(targets.shape)}, one loss per item"
        )
    return losses


def summed_losses(loss: Loss, logits: Tensor, targets: Tensor) -> Tensor:
    """Return () the sum of the losses of all items whose target is not `IGNORED`, from (N, L) and (N,)."""
    if isinstance(loss, CrossEntropy):
        return F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum")
    counted = targets != IGNORED
    return _losses_of(loss, logits, targets, counted).sum()


def _losses_of(loss: Loss, logits: Tensor, targets: Tensor, counted: Tensor) -> Tensor:
    """Return (N,) the losses of the items that count, and 0 for the others, from (N, L), (N,) and (N,) bool."""
    if counted.device.type == "cpu" and not torch.compiler.is_compiling():
        of_counted = item_losses(loss, logits[counted], targets[counted])
        return of_counted.new_zeros(len(targets)).masked_scatter(counted, of_counted)
    # Selecting items would mean reading their number from the device. So the others are computed too, from zeros.
    scores = logits.masked_fill(~counted[:, None], 0)
    return item_losses(loss, scores, targets.masked_fill(~counted, 0)).masked_fill(~counted, 0)


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
    start_logits: Tensor,
    end_logits: Tensor,
    starts: Tensor,
    ends: Tensor,
    attention_mask: Tensor | None = None,
    loss: Loss = _CROSS_ENTROPY,
) -> Tensor:
    """Return the mean of the two losses, by default cross-entropies: (B, S) x 2 and positions (B,) x 2 -> (B,).

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
        inside = (positions >= 0) & (positions < length)
        if not isinstance(loss, CrossEntropy):
            if attention_mask is not None:
                logits = logits.masked_fill(attention_mask == 0, -torch.inf)
            return _losses_of(loss, logits, positions, inside)
        if attention_mask is not None:
            logits = logits.masked_fill(attention_mask == 0, torch.finfo(logits.dtype).min)
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
