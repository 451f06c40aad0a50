"""The update of one optimiser step: Lightning's hooks, clipping, the check for finite values, optimiser, schedule."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bert_lightning.data.loading.batching import Batch
from bert_lightning.distributed.collectives import holds_everywhere
from bert_lightning.optim.freezing import drop_gradients
from bert_lightning.training.finite import FiniteSteps, gradient_norms

if TYPE_CHECKING:
    from bert_lightning.tasks.task import Optimization, Task


def update_weights(
    task: "Task",
    optimization: "Optimization",
    finite_steps: FiniteSteps,
    losses: Tensor,
    sums: Tensor,
    micro_batches: Sequence[Batch],
) -> Tensor:
    """Clip the gradients, update the weights unless loss or gradients are not finite, and advance the schedule.

    The hooks of callbacks and task keep Lightning's contracts: `on_before_optimizer_step` sees the gradients before
    they are clipped, `configure_gradient_clipping` clips them, and `on_before_zero_grad` runs once per step.

    Args:
        task: holds the model, its gradients, the optimiser and the schedule.
        optimization: the settings of the step.
        finite_steps: decides whether a step that is not finite is skipped or stops training.
        losses: (L,) the losses among the sums.
        sums: (K,) the training sums of this process.
        micro_batches: those of this process, for the report of a step that is not finite.

    Returns:
        () bool: whether loss and gradients were finite in all processes.

    Raises:
        SharedWorkError: they were not finite, and the settings say to stop.
    """
    trainer, scaler = task.trainer, loss_scaler(task)
    wrapped = task.optimizers()
    assert not isinstance(wrapped, list), "checked when training starts"
    step, optimizer = trainer.global_step, wrapped.optimizer
    drop_gradients(task.model, optimization.releases, step)
    if scaler is not None:
        scaler.unscale_(optimizer)
    if task.penalty is not None:
        task.penalty.add_gradients()
    finite: list[Tensor] = []

    def clip_and_check() -> None:
        task.gradient_norms = gradient_norms(task.trained_parameters())
        task.gradient_norm = task.gradient_norms.total()
        task.configure_gradient_clipping(optimizer, optimization.gradient_clip_val, "norm")
        is_finite = holds_everywhere(task.gradient_norm.isfinite() & sums.isfinite().all())
        finite.append(is_finite)
        overflowed = _scale_overflowed(scaler, is_finite, losses) if scaler is not None else None
        batches, model = micro_batches, task.model
        if not finite_steps.admits(step + 1, is_finite, losses, optimizer, batches, model, overflowed):
            # Without gradients, the optimiser changes no weights, but the step is counted.
            optimizer.zero_grad()

    with _before_update(optimizer, clip_and_check):
        # Lightning's wrapper calls `on_before_optimizer_step` and counts the step.
        wrapped.step()
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        callback.on_before_zero_grad(trainer, task, optimizer)
    task.on_before_zero_grad(optimizer)
    optimizer.zero_grad()
    for config in trainer.lr_scheduler_configs:
        config.scheduler.step()  # type: ignore[call-arg]
    return finite[0]


@contextmanager
def _before_update(optimizer: torch.optim.Optimizer, prepare: Callable[[], None]) -> Iterator[None]:
    """Call `prepare` in the step of an optimiser, after the closure and before the weights change.

    The closure that Lightning gives to the optimiser runs `on_before_optimizer_step`. In manual optimisation,
    Lightning has no place for clipping between that hook and the update.
    """

    def with_preparation(_: object, arguments: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        def closure() -> Any:
            result = named["closure"]()
            prepare()
            return result

        return arguments, {**named, "closure": closure}

    handle = optimizer.register_step_pre_hook(with_preparation)
    try:
        yield
    finally:
        handle.remove()


def loss_scaler(task: "Task") -> torch.amp.GradScaler | None:
    """Return the scaler of the loss, which only 16-mixed has."""
    return getattr(task.trainer.precision_plugin, "scaler", None)


def _scale_overflowed(scaler: torch.amp.GradScaler, finite: Tensor, losses: Tensor) -> Tensor:
    """Update the loss scale, and return () whether it made gradients overflow. It is then halved.

    The scale starts too high and is doubled from time to time, so such a step is skipped and nothing is wrong. With a
    scale below 1, or if the loss itself is not finite, the scale is not the cause. Nothing waits for the device.
    """
    scale = scaler._get_scale_async()
    assert scale is not None, "the loss was scaled"
    was_large = scale >= 1
    scaler.update()
    return ~finite & was_large & holds_everywhere(losses.isfinite().all())
