"""Checks of Lightning's Trainer before it trains a task: each refusal names the setting to use instead."""

import math
from typing import TYPE_CHECKING

from lightning import Trainer
from lightning.pytorch.callbacks import BatchSizeFinder, GradientAccumulationScheduler
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from bert_lightning.data.loading.module import StepDataModule
from bert_lightning.errors import InputError
from bert_lightning.training.precision import ScaledFloat16
from bert_lightning.wording import count

if TYPE_CHECKING:
    from bert_lightning.tasks.task import Optimization, Task

LIGHTNING_LOG_INTERVAL = 50
"""`log_every_n_steps` of a Trainer that was built without it."""


def check_flags(task: "Task", trainer: Trainer) -> None:
    """Refuse what a task with its own optimiser step cannot follow. Called before Lightning's own checks.

    Raises:
        InputError: a flag or callback of the Trainer, or `torch.compile` of the model alone.
    """
    if hasattr(task.model, "_orig_mod"):
        raise InputError(
            "task.model is the result of torch.compile, which renames the parameters: use torch.compile(task), or "
            "task.compile_training() before the Trainer starts"
        )
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, BatchSizeFinder):
            _check_batch_size_finder(callback, is_training=trainer.state.fn == TrainerFn.FITTING)
    if trainer.state.fn == TrainerFn.FITTING and not task.automatic_optimization:
        _check_training_flags(trainer)


def _check_batch_size_finder(finder: BatchSizeFinder, *, is_training: bool) -> None:
    if is_training:
        raise InputError(
            "BatchSizeFinder in training would change data.batch_size, and so the samples of the planned steps: if a "
            "step does not fit into memory, set trainer.accumulate_grad_batches to auto"
        )
    if finder._batch_arg_name == "batch_size":
        raise InputError(
            "BatchSizeFinder changes data.batch_size, which is the batch of a training step: set "
            'BatchSizeFinder(batch_arg_name="evaluation_batch_size")'
        )


def _check_training_flags(trainer: Trainer) -> None:
    micro_batches = "set TrainingLength(accumulate=...) or, in an experiment, trainer.accumulate_grad_batches"
    if trainer.gradient_clip_val:
        raise InputError(
            f"Trainer(gradient_clip_val={trainer.gradient_clip_val}) has no effect here, because the task clips "
            "itself: set Optimization.gradient_clip_val or, in an experiment, trainer.gradient_clip_val"
        )
    if trainer.accumulate_grad_batches != 1:
        raise InputError(
            f"Trainer(accumulate_grad_batches={trainer.accumulate_grad_batches}) has no effect here, because an item "
            f"of the training loader is a whole step: {micro_batches}"
        )
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, GradientAccumulationScheduler):
            raise InputError(
                "GradientAccumulationScheduler has no effect here, because an item of the training loader is a whole "
                f"step: {micro_batches}; pre-training also has data.stages"
            )
    if isinstance(trainer.strategy, FSDPStrategy | DeepSpeedStrategy):
        raise InputError(
            f"{type(trainer.strategy).__name__} rearranges the parameters that the task's step needs: use ddp, or "
            "ShardedStrategy of bert_lightning.distributed.sharded"
        )
    plugin = trainer.precision_plugin
    if isinstance(plugin, MixedPrecision) and plugin.scaler is not None and not isinstance(plugin, ScaledFloat16):
        raise InputError(
            'Trainer(precision="16-mixed") would unscale the gradients after they are clipped: use '
            'Trainer(plugins=[ScaledFloat16("cuda")]) of bert_lightning.training.precision, or bf16-mixed'
        )


def check_training(task: "Task", optimization: "Optimization") -> list[nn.Parameter]:
    """Check optimiser, schedule and length of a training that is about to start.

    Returns:
        The parameters that get gradients but do not belong to the optimiser.

    Raises:
        InputError: there is not exactly one optimiser, or the schedule needs a metric. Or the lengths of data and
            task differ, or the Trainer would train beyond the planned steps.
    """
    trainer = task.trainer
    if len(trainer.optimizers) != 1:
        raise InputError(
            f"configure_optimizers returned {len(trainer.optimizers)} optimisers, and a step updates one: put the "
            "parameters into groups of one optimiser"
        )
    trained = [parameter for parameter in task.parameters() if parameter.requires_grad]
    owned = {id(parameter) for group in trainer.optimizers[0].param_groups for parameter in group["params"]}
    if trained and not any(id(parameter) in owned for parameter in trained):
        raise InputError(
            "configure_optimizers returned no optimiser of the task's parameters: return one, or leave it out"
        )
    for config in trainer.lr_scheduler_configs:
        if isinstance(config.scheduler, ReduceLROnPlateau):
            raise InputError(
                "ReduceLROnPlateau needs a metric, and the schedule moves with each step: return another scheduler, "
                "or step it in on_validation_end and leave it out of configure_optimizers"
            )
    _check_length(trainer, optimization.num_steps)
    return [parameter for parameter in trained if id(parameter) not in owned]


def _check_length(trainer: Trainer, num_steps: int) -> None:
    data = trainer.datamodule  # type: ignore[attr-defined]
    if isinstance(data, StepDataModule) and data.length is not None and data.plan.num_steps != num_steps:
        raise InputError(
            f"Optimization.num_steps is {num_steps}, but the data module plans {data.plan.num_steps} steps: build "
            "the optimisation with data.plan.num_steps"
        )
    epochs = math.inf if trainer.max_epochs in (None, -1) else trainer.max_epochs
    limit = math.inf if trainer.max_steps == -1 else trainer.max_steps
    steps = min(limit, (epochs or 0) * trainer.num_training_batches)
    if steps > num_steps:
        raise InputError(
            f"this Trainer would train {'without end' if steps == math.inf else count(int(steps), 'step')}, but "
            f"{beyond_plan(num_steps)}"
        )


def use_planned_length(trainer: Trainer) -> None:
    """Let a Trainer without a length train one Lightning epoch, which is the whole plan; Lightning trains 1,000."""
    if trainer.max_epochs is None and trainer.max_steps == -1:
        trainer.fit_loop.max_epochs = 1


def beyond_plan(num_steps: int) -> str:
    """Return the end of a message about a training that goes beyond its planned steps."""
    return (
        f"{count(num_steps, 'step')} are planned, and one Lightning epoch is the whole plan: set "
        "Trainer(max_epochs=1), or plan more steps (TrainingLength and Optimization.num_steps, in an experiment "
        "trainer.max_steps)"
    )


def limiting_flag(trainer: Trainer) -> str | None:
    """Name the flag of the Trainer because of which it evaluates only part of a split; None if no flag is set."""
    names = ["fast_dev_run", "overfit_batches"] if trainer.state.fn == TrainerFn.FITTING else ["fast_dev_run"]
    limit = "limit_test_batches" if trainer.testing else "limit_val_batches"
    name = next((name for name in names if getattr(trainer, name)), limit)
    value = getattr(trainer, name)
    # The integer 1 is one batch, and 1.0 is all of them.
    return None if isinstance(value, float) and value == 1.0 and name == limit else f"{name}={value}"
