"""One optimiser step over micro-batches: seeding of dropout, counts, sums, backward passes, and the update."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, NamedTuple

import torch
from lightning.pytorch.strategies import ParallelStrategy, Strategy
from torch import Tensor

from bert_lightning.data.loading.batching import Batch
from bert_lightning.data.loading.randomness import derive_key
from bert_lightning.distributed.collectives import data_rank, holds_everywhere, sum_over_shares
from bert_lightning.optim.freezing import drop_gradients
from bert_lightning.tasks.step_method import StepMethod
from bert_lightning.training.finite import FiniteSteps, clip_gradients

if TYPE_CHECKING:
    from bert_lightning.tasks.task import Optimization, Task


class Backward:
    """The backward pass of one micro-batch, which a `StepMethod` calls.

    Args:
        task: holds the model.
        loss_of: function from (L,) summed losses to the loss of the step, ().
        exchanges: whether the last pass adds up the gradients over processes; DDP does so once per step.
    """

    def __init__(self, task: "Task", loss_of: Callable[[Tensor], Tensor], *, exchanges: bool) -> None:
        self._task = task
        self._loss_of = loss_of
        self._exchanges = exchanges
        self._ended = False

    def __call__(self, losses: Tensor, *, is_last: bool = True) -> None:
        """Add the gradients of summed losses, each divided by its count over the whole batch.

        Args:
            losses: (L,) the summed losses of the micro-batch.
            is_last: whether no other pass of this micro-batch follows.

        Raises:
            RuntimeError: the last pass has been made already.
        """
        if self._ended:
            raise RuntimeError(
                "a step method called backward after the last pass: every pass before the last needs is_last=False"
            )
        self._ended = is_last
        strategy = self._task.trainer.strategy
        with nullcontext() if is_last and self._exchanges else _without_gradient_exchange(strategy):
            self._task.manual_backward(self._loss_of(losses))

    def check_ended(self) -> None:
        """Check that the last pass was made. Without it, the weights of the processes would differ.

        Raises:
            RuntimeError: the last pass is missing.
        """
        if not self._ended:
            raise RuntimeError("a step method made no last backward pass: call backward once without is_last=False")


class StepSums(NamedTuple):
    """The training sums of this process's micro-batches, (K,), and the divisor of each, (K,)."""

    sums: Tensor
    counts: Tensor

    def only_if(self, finite: Tensor) -> "StepSums":
        """Return these values if the step is finite, otherwise zeros."""
        return StepSums(torch.where(finite, self.sums, 0), torch.where(finite, self.counts, 0))


def accumulate_gradients(
    task: "Task", optimization: "Optimization", method: StepMethod, micro_batches: Sequence[Batch]
) -> StepSums:
    """Add up the gradients of this process's micro-batches.

    Each sum is divided by its count over all micro-batches of all processes. Dropout is seeded for each micro-batch.
    """
    trainer, step = task.trainer, task.trainer.global_step
    share, num_shares = data_rank(trainer)
    counts = torch.stack([method.counts(batch) for batch in micro_batches]).sum(0).float().to(task.device)
    divisors = sum_over_shares(counts, num_shares)[: method.num_losses].clamp(min=1)
    weights = torch.tensor(loss_weights(task, optimization), device=task.device)

    def loss_of(losses: Tensor) -> Tensor:
        # Gradients are averaged over processes; the factor makes that a sum.
        return (losses / divisors * weights).sum() * num_shares

    sums = torch.zeros_like(counts)
    for number, batch in enumerate(micro_batches):
        torch.manual_seed(derive_key(optimization.seed, "dropout", step, share, number))
        backward = Backward(task, loss_of, exchanges=number == len(micro_batches) - 1)
        sums += method.sums(batch, backward)
        backward.check_ended()
    return StepSums(sums, counts)


def update_weights(
    task: "Task",
    optimization: "Optimization",
    finite_steps: FiniteSteps,
    losses: Tensor,
    sums: Tensor,
    micro_batches: Sequence[Batch],
) -> Tensor:
    """Clip the gradients, update the weights unless loss or gradients are not finite, and advance the schedule.

    Args:
        task: holds the model, its gradients, the optimiser and the schedule.
        optimization: the settings of the step.
        finite_steps: decides whether to skip a step that is not finite or to stop.
        losses: (L,) the losses among the sums.
        sums: (K,) the training sums of this process.
        micro_batches: those of this process, for the report of a step that is not finite.

    Returns:
        () bool: whether loss and gradients were finite in all processes.

    Raises:
        SharedWorkError: they were not finite, and the settings say to stop.
    """
    step = task.trainer.global_step
    optimizer, scheduler, scaler = task.optimizers(), task.lr_schedulers(), loss_scaler(task)
    assert not isinstance(optimizer, list)
    assert isinstance(scheduler, torch.optim.lr_scheduler.LRScheduler)
    drop_gradients(task.model, optimization.releases, step)
    if scaler is not None:
        scaler.unscale_(optimizer.optimizer)
    norm = clip_gradients(task.model.parameters(), optimization.gradient_clip_val)
    finite = holds_everywhere(norm.isfinite() & sums.isfinite().all())
    overflows = scaler is not None and _scale_overflows(scaler, finite, losses)
    if overflows or not finite_steps.admits(step + 1, finite, losses, optimizer.optimizer, micro_batches, task.model):
        # Without gradients, the optimiser changes no weights, but the step is counted.
        optimizer.zero_grad()
    optimizer.step()
    optimizer.zero_grad()
    scheduler.step()
    return finite


def loss_weights(task: "Task", optimization: "Optimization") -> list[float]:
    """Return the factor on each loss: that of the step method times that of the settings."""
    method = task.step_method
    return [
        factor * optimization.loss_weights.get(name, 1.0)
        for name, factor in zip(method.loss_names, method.loss_factors, strict=False)
    ]


def loss_scaler(task: "Task") -> torch.amp.GradScaler | None:
    """Return the scaler of the loss, which only 16-mixed has."""
    return getattr(task.trainer.precision_plugin, "scaler", None)


def _scale_overflows(scaler: torch.amp.GradScaler, finite: Tensor, losses: Tensor) -> bool:
    """Update the loss scale, and return whether it made gradients overflow. It is then halved.

    The scale starts too high and is doubled from time to time, so such a step is skipped and nothing is wrong. With a
    scale below 1, or if the loss itself is not finite, the scale is not the cause.
    """
    scale = scaler.get_scale()
    scaler.update()
    return not finite and scale >= 1 and bool(holds_everywhere(losses.isfinite().all()))


def _without_gradient_exchange(strategy: Strategy) -> AbstractContextManager[None]:
    return strategy.block_backward_sync() if isinstance(strategy, ParallelStrategy) else nullcontext()
