"""Learning without forgetting: the outputs of the earlier model on the new data are kept."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bert_lightning.checks import require_at_least, require_positive
from bert_lightning.data.loading.batching import Batch
from bert_lightning.methods.compared_losses import ComparedLosses
from bert_lightning.methods.continual.method import ContinualMethod
from bert_lightning.model.operations import forward_operations
from bert_lightning.tasks.distributions import Distribution, described, divergence
from bert_lightning.tasks.inference import without_padding
from bert_lightning.tasks.step_method import CountedLosses
from bert_lightning.tasks.task import Task


@dataclass(frozen=True)
class LwF(ContinualMethod):
    """Learning without forgetting: Li and Hoiem 2016, arXiv 1606.09282, section 3.

    On the data of the new task, the model should predict the labels of each earlier task as the previous model does.
    The loss gets `weight` T^2 KL(before / T || now / T) for each earlier task, where the softmax is over the
    labels of that task. The paper writes a cross-entropy instead, which has the same gradient, and has no factor T^2.
    The factor is that of Hinton et al. 2015.

    Attributes:
        temperature: T, which divides the logits of both models.
        weight: factor on these losses.
    """

    temperature: float = 2.0
    weight: float = 1.0

    def __post_init__(self) -> None:
        require_positive(self, "temperature")
        require_at_least(self, 0, "weight")

    def check_task(self, task: Task) -> None:
        """Check that a task has predictions to keep.

        Raises:
            ValueError: it has none.
        """
        if not task.distribution_names:
            raise ValueError(f"name lwf is not defined for {described(task)}")

    def losses(self, task: Task, previous: Task, groups: Sequence[Sequence[int]] | None) -> CountedLosses:
        """Return the losses with those on the predictions. With the weight 0 training is plain, bit for bit."""
        return RememberedLosses(task, previous, self, groups) if self.weight else task


class RememberedLosses(ComparedLosses):
    """The losses of a task on its labels, and for each of them one on the predictions of the previous model.

    That model is not part of the task: optimiser, checkpoints and strategy do not see its parameters. Each process
    holds all of it.

    Args:
        task: the task that is trained.
        previous: a task of the same kind with the model before.
        settings: temperature and weight.
        groups: the numbers of the labels of each earlier task; None if all outputs belong to earlier tasks.
    """

    def __init__(self, task: Task, previous: Task, settings: LwF, groups: Sequence[Sequence[int]] | None) -> None:
        super().__init__(task, task, {"remembered": settings.weight})
        self.previous = previous.eval().requires_grad_(False)
        self.settings = settings
        self.groups = groups
        self._last: tuple[Batch, list[Distribution]] | None = None

    def sums_and_distributions(self, batch: Batch) -> tuple[Tensor, list[Distribution]]:
        """Return the sums with the divergences from the previous model, and what the trained model predicts."""
        sums, mine = self.losses.sums_and_distributions(batch)
        pairs = zip(mine, self._remembered(batch), strict=True)
        return self._joined(sums, [self._divergence(now, before) for now, before in pairs]), mine

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
        parts = [divergence(now.among(group), before.among(group), temperature) for group in self.groups if group]
        return torch.stack(parts).sum()

    def _remembered(self, batch: Batch) -> list[Distribution]:
        """Return the predictions of the previous model. If a step makes several passes, they are computed once."""
        if self._last is None or self._last[0] is not batch:
            # Those of the micro-batch before are freed first.
            self._last = None
            device = batch["input_ids"].device
            if self.previous.device != device:
                self.previous.to(device)
            with torch.no_grad(), without_padding(self.previous):
                self._last = batch, self.previous.distributions(self.previous.compute(batch), batch)
        return self._last[1]
