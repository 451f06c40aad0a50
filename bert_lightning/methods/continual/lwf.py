"""Learning without forgetting: the outputs of the earlier model on the new data are kept."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from bert_lightning.checks import require_at_least, require_positive
from bert_lightning.data.loading.batching import Batch
from bert_lightning.methods.continual.method import ContinualMethod
from bert_lightning.model.operations import forward_operations
from bert_lightning.tasks.distributions import Distribution, divergence
from bert_lightning.tasks.step_method import CountedLosses, beside_total
from bert_lightning.tasks.task import Task


@dataclass(frozen=True)
class LwF(ContinualMethod):
    """Learning without forgetting: Li and Hoiem 2016, arXiv 1606.09282, section 3.

    On the data of the new task, the predictions for the labels of each earlier task should stay those of the model
    before. The loss gets `weight` T^2 KL(before / T || now / T) for each earlier task, where the softmax is over the
    labels of that task. The paper writes a cross-entropy instead, which has the same gradient, and has no factor T^2.
    The factor is that of Hinton et al. 2015.

    Attributes:
        temperature: T, which divides the logits of both models.
        weight: factor on these losses.
    """

    temperature: float = 2.0
    weight: float = 1.0
    remembers: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_positive(self, "temperature")
        require_at_least(self, 0, "weight")

    def losses(self, task: Task, previous: Task, groups: Sequence[Sequence[int]] | None) -> CountedLosses:
        """Return the losses with those on the predictions. With the weight 0 training is plain, bit for bit."""
        return RememberedLosses(task, previous, self, groups) if self.weight else task


class RememberedLosses:
    """The losses of a task on its labels, and for each of them one on the predictions of the model before.

    That model is not part of the task: optimiser, checkpoints and strategy do not see its parameters. Each process
    holds all of it.

    Args:
        task: the task that is trained.
        previous: a task of the same kind with the model before.
        settings: temperature and weight.
        groups: the numbers of the labels of each earlier task; None if all outputs belong to earlier tasks.
    """

    def __init__(self, task: Task, previous: Task, settings: LwF, groups: Sequence[Sequence[int]] | None) -> None:
        self.task = task
        self.previous = previous.eval().requires_grad_(False)
        self.settings = settings
        self.groups = groups
        self._last: tuple[Batch, list[Distribution]] | None = None

    @property
    def loss_names(self) -> Sequence[str]:
        """The losses of the task, those on the predictions, and the other sums of the task."""
        number, names = self.task.num_losses, self.task.loss_names
        remembered = [f"remembered_{name}" for name in self.task.distribution_names]
        names = beside_total(names, number)
        return [*names[:number], *remembered, *names[number:]]

    @property
    def num_losses(self) -> int:
        """The losses of the task and those on the predictions."""
        return self.task.num_losses + len(self.task.distribution_names)

    @property
    def loss_factors(self) -> Sequence[float]:
        """(L,) those of the task, and the weight."""
        return [*self.task.loss_factors, *[self.settings.weight] * len(self.task.distribution_names)]

    def counts(self, batch: Batch) -> Tensor:
        """Return (K,) the counts of the task and, after its losses, those of the predictions."""
        counts, number = self.task.counts(batch), self.task.num_losses
        items = self.task.distribution_counts(batch).to(counts.device)
        return torch.cat([counts[:number], items, counts[number:]])

    def sums(self, batch: Batch) -> Tensor:
        """Return (K,) the sums of the task and, after its losses, the divergences from the model before."""
        return self.sums_and_distributions(batch)[0]

    def sums_and_distributions(self, batch: Batch) -> tuple[Tensor, list[Distribution]]:
        """Return the sums, and what the model predicts in the same forward pass."""
        number = self.task.num_losses
        sums, mine = self.task.sums_and_distributions(batch)
        pairs = zip(mine, self._remembered(batch), strict=True)
        added = torch.stack([self._divergence(now, before) for now, before in pairs])
        return torch.cat([sums[:number], added.to(sums.dtype), sums[number:]]), mine

    def operations(self, batch: Batch, num_passes: float = 1) -> float:
        """Return the operations of the task, and of one forward pass of the model before."""
        of_previous = forward_operations(
            self.previous.config,
            batch["num_tokens"],
            batch["num_token_pairs"],
            batch["num_sequences"],
            self.previous.num_scored(batch),
        )
        return self.task.operations(batch, num_passes) + of_previous

    def _divergence(self, now: Distribution, before: Distribution) -> Tensor:
        """Return the divergence over all earlier tasks, ()."""
        temperature = self.settings.temperature
        if self.groups is None:
            return divergence(now, before, temperature)
        parts = [divergence(_among(now, group), _among(before, group), temperature) for group in self.groups if group]
        return torch.stack(parts).sum()

    def _remembered(self, batch: Batch) -> list[Distribution]:
        """Return the predictions of the model before. If a step makes several passes, they are computed once."""
        if self._last is None or self._last[0] is not batch:
            # Those of the micro-batch before are freed first.
            self._last = None
            device = batch["input_ids"].device
            if self.previous.device != device:
                self.previous.to(device)
            with torch.no_grad():
                self._last = batch, self.previous.distributions(self.previous.compute(batch), batch)
        return self._last[1]


def _among(distribution: Distribution, labels: Sequence[int]) -> Distribution:
    """Return the distribution of one out of some of the labels."""
    return distribution._replace(logits=distribution.logits[..., list(labels)])
