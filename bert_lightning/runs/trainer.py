"""The Lightning Trainer of a run and its callbacks."""

import dataclasses
import logging
import os
import warnings
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import torch
from lightning import Callback, Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins import _PLUGIN_INPUT, Precision
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.strategies import Strategy

from bert_lightning.checks import nearest
from bert_lightning.config.experiment import Experiment
from bert_lightning.config.sections import TrainerSettings
from bert_lightning.cores import usable_cores
from bert_lightning.distributed.replicated import ReplicatedStrategy
from bert_lightning.distributed.sharded import ShardedStrategy
from bert_lightning.errors import InputError
from bert_lightning.runs.own_callbacks import OwnCallbacks, own_callbacks
from bert_lightning.runs.teacher import head_is_untrained
from bert_lightning.tasks.task import Task
from bert_lightning.training.checkpointing import Checkpointing, VerifiedCheckpointIO
from bert_lightning.training.early_stopping import ResumableEarlyStopping
from bert_lightning.training.precision import BFloat16Weights, ScaledFloat16
from bert_lightning.training.progress import TrainingProgress
from bert_lightning.training.ranks import own_processes
from bert_lightning.training.signals import StopOnSignal
from bert_lightning.training.validation_at_end import ValidationAtEnd

# Pattern of a warning -> why it is harmless here.
_HARMLESS_WARNINGS = {
    ".*LeafSpec.*": "Lightning calls a deprecated function of torch.",
    ".*GPU available but not used.*": "trainer.accelerator is the user's choice.",
    ".*number of training batches.*": "A training may be shorter than trainer.log_every_n_steps.",
    ".*in eval mode at the start of training.*": "Frozen layers stay in evaluation mode.",
    ".*Total length of.*": "A training without validation has an empty validation loader.",
    ".*called before the ``update``.*": "A process may get no batch of a small split.",
    ".*sync_dist=True.*": "Values are reduced over processes before they are logged.",
    ".*lr_scheduler.step.*": "The task always calls the optimiser first; torch cannot see it through all wrappers.",
    ".*find_unused_parameters=True was specified.*": "DDP looks for them so that its buckets do not change.",
    ".*will be deleted when the new ones are saved.*": "The logger writes the rows of the session before again.",
    ".*doesn't support sharding model layers.*": "Averages of weights are not sharded.",
    ".*returned a view tensor.*": "The model changes no output of a sharded module in place.",
}


def build_trainer(
    experiment: Experiment,
    folder: Path,
    loggers: Sequence[Logger],
    *,
    steps: int = -1,
    callbacks: Sequence[Callback] = (),
    compiled: bool = False,
) -> Trainer:
    """Build a Trainer whose steps are optimiser steps and whose only epoch is the whole training.

    Args:
        experiment: the settings; their precision is settled.
        folder: the run's directory.
        loggers: the receivers of the metrics.
        steps: the length of the training.
        callbacks: the callbacks of a training; without callbacks, the trainer only scores.
        compiled: whether the model is compiled.

    Raises:
        InputError: this machine lacks the device or the precision.
    """
    quiet()
    settings = experiment.trainer
    assert settings.precision != "auto", "settled before"
    prepare_machine(settings)
    strategy, custom_precision = _strategy(experiment), _custom_precision(settings)
    try:
        trainer = Trainer(
            accelerator=settings.accelerator,
            devices=settings.devices,
            num_nodes=settings.num_nodes,
            strategy=strategy,
            precision=settings.precision if custom_precision is None else None,
            max_steps=steps,
            val_check_interval=validation_interval(experiment, steps),
            check_val_every_n_epoch=None,
            num_sanity_val_steps=0,
            log_every_n_steps=settings.log_every_n_steps,
            logger=list(loggers),
            callbacks=list(callbacks),
            # Scoring under FSDP gathers parameters that are trained later, so they must not be inference tensors.
            inference_mode=settings.strategy != "fsdp",
            enable_checkpointing=bool(callbacks),
            enable_progress_bar=bool(callbacks),
            enable_model_summary=False,
            use_distributed_sampler=False,
            plugins=_plugins(experiment, custom_precision),
            # Kernels compiled for a processor otherwise add up gradients of embeddings in any order, and a resumed
            # run would differ. On a GPU, flash attention would differ all the same.
            deterministic=settings.deterministic or ("warn" if compiled and not on_gpu(settings) else None),
            default_root_dir=folder,
        )
    except (MisconfigurationException, RuntimeError, ValueError) as error:
        raise InputError(f"trainer: {str(error).splitlines()[0]}") from None
    own_processes(trainer)
    return trainer


def prepare_machine(settings: TrainerSettings) -> None:
    """Set torch's global state: threads of a processor, kernels of a GPU, one option of deterministic mode.

    Raises:
        InputError: `16-mixed` without CUDA.
    """
    if on_gpu(settings):
        prepare_gpu(settings.precision)
    else:
        share_out_cores(settings.devices)
        if settings.precision == "16-mixed":
            raise InputError("trainer.precision is 16-mixed, which needs CUDA; on a processor use bf16-mixed or 32")
    # Deterministic mode also fills uninitialised memory. That only helps debugging, so it is switched off.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def on_gpu(settings: TrainerSettings) -> bool:
    """Return whether a training with these settings runs on GPUs."""
    return settings.accelerator != "cpu" and torch.cuda.is_available()


def prepare_gpu(precision: str = "bf16-mixed") -> None:
    """Choose kernels of a GPU: no cuDNN attention, and tensor cores for products in float32.

    cuDNN plans its attention anew for each shape, about a second for both passes (modelscope/FunASR #3704), and
    padded batches have many shapes. TF32 rounds the operands of products to 10 bits and is ten times as fast as
    float32.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)
    if precision == "32":
        torch.set_float32_matmul_precision("high")


def _strategy(experiment: Experiment) -> str | Strategy:
    """Choose how processes share the work."""
    settings = experiment.trainer
    timeout = timedelta(seconds=settings.timeout_seconds)
    if settings.strategy == "fsdp":
        return ShardedStrategy(
            settings.num_processes, settings.tensor_parallel_size, experiment.checkpoint.sharded, timeout
        )
    if settings.strategy == "ddp" or settings.num_processes > 1:
        return ReplicatedStrategy(settings.num_processes, on_gpu(settings), settings.deterministic, timeout)
    return "auto"


def _custom_precision(settings: TrainerSettings) -> Precision | None:
    """Return our plugin for a precision that Lightning would compute in another way; None for the others."""
    if settings.precision == "bf16-true":
        return BFloat16Weights()
    return ScaledFloat16("cuda") if settings.precision == "16-mixed" else None


def _plugins(experiment: Experiment, custom_precision: Precision | None) -> list[_PLUGIN_INPUT]:
    plugins: list[_PLUGIN_INPUT] = [VerifiedCheckpointIO(experiment.checkpoint.asynchronous)]
    if custom_precision is not None:
        plugins.append(custom_precision)
    if SLURMEnvironment.detect():
        # On a signal, our own handler writes a checkpoint, and the job script queues the job again.
        plugins.append(SLURMEnvironment(auto_requeue=False))
    return plugins


def validation_interval(experiment: Experiment, steps: int) -> int:
    """Return the number of steps between validations: as configured, otherwise a tenth of the training."""
    return experiment.trainer.val_check_interval or max(1, -(-steps // 10))


def training_callbacks(
    experiment: Experiment, task: Task, folder: Path, steps: int, own: OwnCallbacks | None = None, *, validates: bool
) -> list[Callback]:
    """Make the callbacks of a training: progress, signals, validation, early stopping, checkpoints, and the user's.

    The user's callbacks come before those that write checkpoints, so a checkpoint holds the state of the user's
    callbacks after the step.

    Args:
        experiment: the settings.
        task: the task that is trained.
        folder: the folder for checkpoints.
        steps: the length of the training.
        own: the user's callbacks; by default those of the experiment. A progress bar among them replaces ours.
        validates: whether there is a validation split.

    Raises:
        InputError: `checkpoint.monitor` is no metric of the task or needs `checkpoint.mode`, or
            `early_stopping.patience` is set without validation; or one of them is set, and no score tells how good
            the model is.
    """
    monitor = _monitor_of(experiment, task)
    interval = validation_interval(experiment, steps)
    settings = experiment.checkpoint
    if not validates and settings.every_n_steps is None:
        settings = dataclasses.replace(settings, every_n_steps=interval)
    checkpointing = Checkpointing(folder, settings, monitor, task.monitor_mode, interval if validates else None)
    own = own or own_callbacks(experiment)
    callbacks = list(own.callbacks)
    if not any(isinstance(callback, ProgressBar) for callback in callbacks):
        callbacks.append(TrainingProgress(task.shown))
    stopping = experiment.early_stopping
    if stopping.patience is not None and not validates:
        raise InputError(
            "early_stopping.patience does nothing without validation: name data.validation, or leave it out"
        )
    if validates:
        callbacks.append(ValidationAtEnd())
    if stopping.patience is not None and monitor is not None:
        mode = experiment.checkpoint.mode or task.monitor_mode
        callbacks.append(
            ResumableEarlyStopping(monitor, mode=mode, patience=stopping.patience, min_delta=stopping.min_delta)
        )
    # A signal writes a checkpoint. It must include the decision of early stopping about the validation before it.
    return [*callbacks, StopOnSignal(checkpointing, own.first_error), checkpointing]


def _monitor_of(experiment: Experiment, task: Task) -> str | None:
    """Return the metric that decides which checkpoint is the best; None if no metric tells.

    Validation scores the head, which learns nothing if a student learns only inner states.

    Raises:
        InputError: `checkpoint.monitor`, `checkpoint.mode` or `early_stopping.patience` cannot be used.
    """
    monitor = experiment.checkpoint.monitor
    if head_is_untrained(experiment, task):
        used = {
            "checkpoint.monitor": monitor,
            "checkpoint.mode": experiment.checkpoint.mode,
            "early_stopping.patience": experiment.early_stopping.patience,
        }
        for key in (key for key, value in used.items() if value is not None):
            raise InputError(
                f"{key} cannot be used here: the student learns only inner states of its teacher, so the scores are "
                "those of an untrained head"
            )
        return None
    known = [f"val/{name}" for name in task.validation_metrics]
    if monitor is not None and monitor not in known:
        raise InputError(f"checkpoint.monitor is {monitor!r}{nearest(monitor, known)}")
    if monitor not in (None, task.monitor) and experiment.checkpoint.mode is None:
        raise InputError(f"checkpoint.mode is not set: set it to min or max, whichever is best for {monitor}")
    return monitor or task.monitor


def share_out_cores(num_processes: int) -> None:
    """Divide the cores among the processes of this machine. A single process keeps OMP_NUM_THREADS if it is set."""
    if "OMP_NUM_THREADS" not in os.environ or num_processes > 1:
        torch.set_num_threads(max(1, usable_cores() // num_processes))


def quiet() -> None:
    """Silence the warnings of Lightning and torch about settings that are chosen on purpose."""
    for name in ("lightning.pytorch", "lightning.fabric", "pytorch_lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for pattern in _HARMLESS_WARNINGS:
        warnings.filterwarnings("ignore", pattern)
