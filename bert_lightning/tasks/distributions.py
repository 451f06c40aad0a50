"""Predictions of a model for the items that a loss counts, as distributions that can be compared between models."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bert_lightning.data.loading.batching import Batch


class Distribution(NamedTuple):
    """The distributions that a model predicts for items of any shape (M...).

    An item may have several distributions, such as those of the start and the end of an answer. They count as their
    mean.
    """

    logits: Tensor
    """(M..., D, L): the scores of L outcomes in D distributions per item; of a regression, (M..., D, 1) numbers"""
    are_numbers: bool = False
    """whether they are means of normal distributions with the variance 1"""
    possible: Tensor | None = None
    """bool that broadcasts to `logits`: the outcomes that exist; None if all do"""
    counted: Tensor | None = None
    """(M...) bool: the items that the loss counts; None if it counts all"""
    axis: int = -1
    """the axis of `logits` along which the labels of the task are: -2 if each label has a distribution of its own"""

    def among(self, labels: Sequence[int]) -> "Distribution":
        """Return the distribution of one out of some of the labels, or those of some labels."""
        kept = torch.tensor(labels, device=self.logits.device)
        possible = self.possible
        if possible is not None and possible.shape[self.axis] > 1:
            possible = possible.index_select(self.axis, kept)
        return self._replace(logits=self.logits.index_select(self.axis, kept), possible=possible)


def one_of(logits: Tensor, possible: Tensor | None = None, counted: Tensor | None = None) -> Distribution:
    """Return the distribution of one out of L outcomes per item, from scores (M..., L)."""
    return Distribution(logits.unsqueeze(-2), False, None if possible is None else possible.unsqueeze(-2), counted)


def each_of(logits: Tensor) -> Distribution:
    """Return the distributions of L independent outcomes per item, from scores (M..., L) for a sigmoid."""
    return Distribution(torch.stack([torch.zeros_like(logits), logits], -1), axis=-2)


def numbers(values: Tensor) -> Distribution:
    """Return the normal distributions around L numbers per item, (M..., L)."""
    return Distribution(values.unsqueeze(-1), are_numbers=True)


def described(task: nn.Module) -> str:
    """Describe a task for the message that its predictions cannot be compared. A CRF is a reason, so it is named."""
    crf = " with a CRF, which scores whole sequences of tags" if getattr(task.model, "crf", None) else ""
    return f"the task {task.name}{crf}"


class PredictedLosses:
    """Losses of a model's predictions, which can be compared with those of another model or of another pass.

    Every task is one. A task without `distribution_names` has losses alone.
    """

    @property
    def distribution_names(self) -> Sequence[str]:
        """The losses for which `distributions` can be compared with those of another model; none by default."""
        return ()

    def distribution_counts(self, batch: Batch) -> Tensor:
        """Return the number of items of each of the `distributions`; computed without the model."""
        raise NotImplementedError

    def compute(self, batch: Batch) -> Any:
        """Return the model's output for a batch."""
        raise NotImplementedError

    def sums_of(self, computed: Any, batch: Batch) -> Tensor:
        """Return (K,) each training sum of one micro-batch, given the model's output."""
        raise NotImplementedError

    def distributions(self, computed: Any, batch: Batch) -> list[Distribution]:
        """Return what the model predicts about the items of each loss in `distribution_names`."""
        raise NotImplementedError

    def sums_and_distributions(self, batch: Batch) -> tuple[Tensor, list[Distribution]]:
        """Return (K,) each training sum of one micro-batch, and the distributions of the same forward pass."""
        computed = self.compute(batch)
        return self.sums_of(computed, batch), self.distributions(computed, batch)


def divergence(student: Distribution, teacher: Distribution, temperature: float) -> Tensor:
    """Return T^2 KL(teacher / T || student / T), summed over the counted items: ().

    Hinton et al. 2015, arXiv 1503.02531, section 2: the logits of both are divided by the temperature T. The factor
    T^2 keeps the size of the gradient, which is T (q - p) for the probabilities p of the teacher and q of the
    student. If T is large, the gradient is about the difference of the centred logits divided by L (section 2.1).
    For numbers, the mean squared error takes the place of KL, and T has no effect.

    Equal logits give exactly 0, and gradients of exactly 0.

    >>> one, other = one_of(torch.tensor([[1.0, 3.0]])), one_of(torch.tensor([[3.0, 1.0]]))
    >>> divergence(one, one, 2.0).item(), round(divergence(one, other, 2.0).item(), 4)
    (0.0, 1.8485)
    """
    kind = torch.promote_types(student.logits.dtype, torch.float32)
    predicted, expected = student.logits.to(kind), teacher.logits.detach().to(kind)
    if student.are_numbers:
        values = (predicted - expected).square().squeeze(-1).mean(-1)
    else:
        of_each = kl_divergence(predicted / temperature, expected / temperature, student.possible)
        values = temperature**2 * of_each.mean(-1)
    return (values if student.counted is None else values * student.counted).sum()


def symmetric_divergence(one: Distribution, other: Distribution) -> Tensor:
    """Return KL(one || other) + KL(other || one), summed over the counted items: (). Gradients flow to both.

    With the probabilities p and q it is sum((p - q) (log p - log q)), in which no term is negative (Jeffreys 1946).
    For numbers it is the mean squared error, which is this sum for normal distributions with the variance 1.

    Equal logits give exactly 0, and gradients of exactly 0.

    >>> one, other = one_of(torch.tensor([[0.0, 0.0]])), one_of(torch.tensor([[0.0, 2.0]]))
    >>> round(symmetric_divergence(one, other).item(), 4), symmetric_divergence(one, one).item()
    (0.7616, 0.0)
    """
    kind = torch.promote_types(one.logits.dtype, torch.float32)
    logits = [one.logits.to(kind), other.logits.to(kind)]
    if one.are_numbers:
        values = (logits[0] - logits[1]).square().squeeze(-1).mean(-1)
    else:
        values = _symmetric_kl(logits[0], logits[1], one.possible).mean(-1)
    return (values if one.counted is None else values * one.counted).sum()


def _symmetric_kl(one: Tensor, other: Tensor, possible: Tensor | None) -> Tensor:
    logs = [_log_probabilities(logits, possible) for logits in (one, other)]
    terms = (logs[0].exp() - logs[1].exp()) * (logs[0] - logs[1])
    return terms.sum(-1)


def _log_probabilities(logits: Tensor, possible: Tensor | None) -> Tensor:
    """Return the logarithms of softmax over the possible outcomes; those of the others are 0."""
    if possible is None:
        return logits.log_softmax(-1)
    lowest = torch.finfo(logits.dtype).min
    return logits.masked_fill(~possible, lowest).log_softmax(-1).masked_fill(~possible, 0)


def kl_divergence(predicted: Tensor, expected: Tensor, possible: Tensor | None) -> Tensor:
    """Return the divergence of softmax(predicted) from softmax(expected) over the last dimension: (..., L) -> (...).

    Outcomes that are not `possible`, a bool that broadcasts to both, have the probability 0.

    With p = softmax(expected), it is sum(p (expected - predicted)) + log sum exp(predicted) - log sum exp(expected).
    Unlike the formula with two log-softmaxes, its gradient is softmax(predicted) - p without a rounding of sum(p).
    """
    if possible is not None:
        # Not minus infinity, whose product with the probability 0 is not a number.
        lowest = torch.finfo(predicted.dtype).min
        predicted, expected = predicted.masked_fill(~possible, lowest), expected.masked_fill(~possible, lowest)
    # Small numbers lose fewer digits when they are subtracted.
    predicted = predicted - predicted.detach().amax(-1, keepdim=True)
    expected = expected - expected.amax(-1, keepdim=True)
    total = expected.logsumexp(-1)
    probabilities = (expected - total[..., None]).exp()
    return (probabilities * (expected - predicted)).sum(-1) + predicted.logsumexp(-1) - total
