"""Distillation: training on the predictions of a teacher and on the labels."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bert_lightning.checks import refuse_empty_paths, require_between, require_positive
from bert_lightning.data.loading.batching import Batch
from bert_lightning.model.operations import forward_operations
from bert_lightning.tasks.distributions import Distribution, divergence
from bert_lightning.tasks.step_method import beside_total
from bert_lightning.tasks.task import Task


@dataclass(frozen=True)
class DistillationSettings:
    """Distillation of the logits of a teacher: Hinton et al. 2015, arXiv 1503.02531, section 2.

    The loss is (1 - `alpha`) times the loss on the labels, plus `alpha` T^2 KL(teacher / T || student / T).

    Attributes:
        teacher: a checkpoint of the same task, with the same labels and vocabulary. A run directory, checkpoint file,
            Hugging Face folder or hub name. Its size does not matter.
        temperature: T, which divides the logits of both.
        alpha: weight of the teacher, from 0 (labels alone, plain training) to 1 (teacher alone).
    """

    teacher: str
    temperature: float = 2.0
    alpha: float = 0.5

    def __post_init__(self) -> None:
        refuse_empty_paths(self, "teacher")
        require_positive(self, "temperature")
        require_between(self, 0, 1, "alpha")


class DistilledLosses:
    """The losses of a task on the labels, and for each of them one on the predictions of a teacher.

    The teacher is not part of the task: optimiser, checkpoints and strategy do not see its parameters. Each process
    holds all of it. It computes in evaluation mode, without gradients, in the precision of the run.

    Args:
        task: the student.
        teacher: a task of the same kind with another model.
        settings: temperature and weight.
    """

    def __init__(self, task: Task, teacher: Task, settings: DistillationSettings) -> None:
        self.task = task
        self.teacher = teacher.eval().requires_grad_(False)
        self.settings = settings
        self._last: tuple[Batch, list[Distribution]] | None = None

    @property
    def loss_names(self) -> Sequence[str]:
        """The losses of the task, those of the teacher, and the other sums of the task."""
        number, names = self.task.num_losses, self.task.loss_names
        distilled = [f"distillation_{name}" for name in self.task.distribution_names]
        names = beside_total(names, number)
        return [*names[:number], *distilled, *names[number:]]

    @property
    def num_losses(self) -> int:
        """The losses of the task and those of the teacher."""
        return self.task.num_losses + len(self.task.distribution_names)

    @property
    def loss_factors(self) -> Sequence[float]:
        """(L,) 1 - alpha for the losses of the task, and alpha for those of the teacher."""
        alpha = self.settings.alpha
        of_task = [factor * (1 - alpha) for factor in self.task.loss_factors]
        return [*of_task, *[alpha] * len(self.task.distribution_names)]

    def counts(self, batch: Batch) -> Tensor:
        """Return (K,) the counts of the task and, after its losses, those of the distributions."""
        counts, number = self.task.counts(batch), self.task.num_losses
        items = self.task.distribution_counts(batch).to(counts.device)
        return torch.cat([counts[:number], items, counts[number:]])

    def sums(self, batch: Batch) -> Tensor:
        """Return (K,) the sums of the task and, after its losses, the divergences from the teacher."""
        return self.sums_and_distributions(batch)[0]

    def sums_and_distributions(self, batch: Batch) -> tuple[Tensor, list[Distribution]]:
        """Return the sums, and what the student predicts in the same forward pass."""
        number = self.task.num_losses
        sums, mine = self.task.sums_and_distributions(batch)
        pairs = zip(mine, self._taught(batch), strict=True)
        divergences = [divergence(own, taught, self.settings.temperature) for own, taught in pairs]
        return torch.cat([sums[:number], torch.stack(divergences).to(sums.dtype), sums[number:]]), mine

    def operations(self, batch: Batch, num_passes: float = 1) -> float:
        """Return the operations of the task, and of one forward pass of the teacher."""
        of_teacher = forward_operations(
            self.teacher.config,
            batch["num_tokens"],
            batch["num_token_pairs"],
            batch["num_sequences"],
            self.teacher.num_scored(batch),
        )
        return self.task.operations(batch, num_passes) + of_teacher

    def _taught(self, batch: Batch) -> list[Distribution]:
        """Return the teacher's predictions. If a step method makes several passes, they are computed once."""
        if self._last is None or self._last[0] is not batch:
            # Those of the micro-batch before are freed first.
            self._last = None
            device = batch["input_ids"].device
            if self.teacher.device != device:
                self.teacher.to(device)
            with torch.no_grad():
                self._last = batch, self.teacher.distributions(self.teacher.compute(batch), batch)
        return self._last[1]
