"""Losses to which divergences between predictions of the same items are added: of two passes, or of two models."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from bert_lightning.data.loading.batching import Batch
from bert_lightning.tasks.distributions import Distribution
from bert_lightning.tasks.step_method import CountedLosses, beside_total
from bert_lightning.tasks.task import Task


class ComparedLosses(ABC):
    """Losses, and for each kind of comparison one further loss per distribution of the task.

    Args:
        losses: those of the task, or those of the task and of distillation.
        task: holds the model and has `distributions`.
        added: the prefix of the names of each kind -> factor on these losses.
    """

    def __init__(self, losses: CountedLosses, task: Task, added: Mapping[str, float]) -> None:
        self.losses = losses
        self.task = task
        self._added = added

    @property
    def loss_names(self) -> Sequence[str]:
        """The losses, those of each comparison, and the other sums."""
        number, names = self.losses.num_losses, self.losses.loss_names
        compared = [f"{prefix}_{name}" for prefix in self._added for name in self.task.distribution_names]
        names = beside_total(names, number)
        return [*names[:number], *compared, *names[number:]]

    @property
    def num_losses(self) -> int:
        """The losses and those of each comparison."""
        return self.losses.num_losses + len(self._added) * len(self.task.distribution_names)

    @property
    def loss_factors(self) -> Sequence[float]:
        """Those of the losses, and the factor of each comparison."""
        number = len(self.task.distribution_names)
        compared = [factor for factor in self._added.values() for _ in range(number)]
        return [*self.losses.loss_factors, *compared]

    def counts(self, batch: Batch) -> Tensor:
        """Return (K,) the counts of the losses, with those of the distributions after them."""
        counts, number = self.losses.counts(batch), self.losses.num_losses
        items = self.task.distribution_counts(batch).to(counts.device).repeat(len(self._added))
        return torch.cat([counts[:number], items, counts[number:]])

    def sums(self, batch: Batch) -> Tensor:
        """Return (K,) the sums, with those of the comparisons after the losses."""
        return self.sums_and_distributions(batch)[0]

    @abstractmethod
    def sums_and_distributions(self, batch: Batch) -> tuple[Tensor, list[Distribution]]:
        """Return the sums, and what the task's model predicts."""

    def _joined(self, sums: Tensor, compared: Sequence[Tensor]) -> Tensor:
        """Return (K,) the sums with those of the comparisons after the losses."""
        number = self.losses.num_losses
        return torch.cat([sums[:number], torch.stack(list(compared)).to(sums.dtype), sums[number:]])
