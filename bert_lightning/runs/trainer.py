"""The Trainer of a run, and what calls back into it."""

import dataclasses
import logging
import os
import warnings
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.strategies import DDPStrategy, Strategy

from bert_lightning.checks import nearest
from bert_lightning.config.experiment import Experiment
from bert_lightning.distributed.sharded import ShardedStrategy
from bert_lightning.errors import InputError
from bert_lightning.tasks.task import Task
from bert_lightning.training.checkpointing import Checkpointing, VerifiedCheckpointIO
from bert_lightning.training.early_stopping import ResumableEarlyStopping
from bert_lightning.training.precision import BFloat16Weights, ScaledFloat16
from bert_lightning.training.progress import TrainingProgress
from bert_lightning.training.ranks import own_processes
from bert_lightning.training.signals import StopOnSignal
from bert_lightning.training.validation_at_end import ValidationAtEnd


def build_trainer(
    experiment: Experiment,
    folder: Path,
    loggers: Sequence[Logger],
    *,
    steps: int = -1,
    callbacks: Sequence[Callback] = (),
    compiled: bool = False,
) -> Trainer:
    """A Trainer whose steps are optimiser steps and whose only epoch is the whole training.

    Raises:
        InputError: a device or precision that is not there.
    """
    quiet()
    settings = experiment.trainer
    assert settings.precision != "auto", "settled before"
    on_cpu = settings.accelerator == "cpu" or not torch.cuda.is_available()
    if on_cpu:
        share_out_cores(settings.devices)
    if on_cpu and settings.precision == "16-mixed":
        raise InputError("trainer.precision is 16-mixed, which needs CUDA; a processor has bf16-mixed")
    if settings.deterministic:
        # Fills what is allocated, so that reading it unset would show; that is no part of repeating.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    timeout = timedelta(seconds=settings.timeout_seconds)
    strategy: str | Strategy = "auto"
    if settings.strategy == "fsdp":
        strategy = ShardedStrategy(
            settings.num_processes, settings.tensor_parallel_size, experiment.checkpoint.sharded, timeout
        )
    elif settings.strategy == "ddp" or settings.num_processes > 1:
        # Unless DDP looks for unused parameters, it arranges its buckets anew after the first step, and so after each
        # resume. Three ranks or more add up in an order that depends on the place in a bucket, so that must stay.
        strategy = DDPStrategy(
            gradient_as_bucket_view=True, timeout=timeout, find_unused_parameters=settings.num_processes > 2
        )
    plugins: list[Any] = [VerifiedCheckpointIO(experiment.checkpoint.asynchronous)]
    own_precision = settings.precision in ("bf16-true", "16-mixed")
    if own_precision:
        plugins.append(BFloat16Weights() if settings.precision == "bf16-true" else ScaledFloat16("cuda"))
    try:
        if SLURMEnvironment.detect():
            # A signal is ours: it saves, and the job script asks for the next turn.
            plugins.append(SLURMEnvironment(auto_requeue=False))
        trainer = Trainer(
            accelerator=settings.accelerator,
            devices=settings.devices,
            num_nodes=settings.num_nodes,
            strategy=strategy,
            precision=None if own_precision else settings.precision,
            max_steps=steps,
            val_check_interval=validation_interval(experiment, steps),
            check_val_every_n_epoch=None,
            num_sanity_val_steps=0,
            log_every_n_steps=settings.log_every_n_steps,
            logger=list(loggers),
            callbacks=list(callbacks),
            # Parameters that are gathered for scoring are trained on afterwards.
            inference_mode=settings.strategy != "fsdp",
            enable_checkpointing=bool(callbacks),
            enable_progress_bar=bool(callbacks),
            enable_model_summary=False,
            use_distributed_sampler=False,
            plugins=plugins,
            # Compiled kernels add up gradients of embeddings in any order otherwise, and a resume would differ.
            deterministic=settings.deterministic or ("warn" if compiled else None),
            default_root_dir=folder,
        )
    except (
        MisconfigurationException,
        RuntimeError,
        ValueError,
    ) as error:
        raise InputError(f"trainer: {str(error).splitlines()[0]}") from None
    own_processes(trainer)
    return trainer


def validation_interval(experiment: Experiment, steps: int) -> int:
    """Steps between validations: as given, or a tenth of the training."""
    return experiment.trainer.val_check_interval or max(1, -(-steps // 10))


def training_callbacks(
    experiment: Experiment, task: Task, folder: Path, steps: int, *, validates: bool
) -> list[Callback]:
    """Progress, signals, validation, early stopping and checkpoints.

    Raises:
        InputError: `checkpoint.monitor` is no metric of the task, or not said whether more of it is better;
            `early_stopping.patience` without validation.
    """
    interval = validation_interval(experiment, steps)
    settings = experiment.checkpoint
    known = [f"val/{name}" for name in task.validation_metrics]
    if settings.monitor is not None and settings.monitor not in known:
        raise InputError(f"checkpoint.monitor is {settings.monitor!r}{nearest(settings.monitor, known)}")
    if settings.monitor not in (None, task.monitor) and settings.mode is None:
        raise InputError(f"checkpoint.mode is not set: is the min or the max of {settings.monitor} the best?")
    if not validates and settings.every_n_steps is None:
        settings = dataclasses.replace(settings, every_n_steps=interval)
    checkpointing = Checkpointing(folder, settings, task.monitor, task.monitor_mode, interval if validates else None)
    callbacks: list[Callback] = [TrainingProgress(task.shown)]
    patience = experiment.early_stopping.patience
    if patience is not None and not validates:
        raise InputError(
            "early_stopping.patience does nothing without validation: name data.validation, or leave it out"
        )
    if validates:
        callbacks.append(ValidationAtEnd())
        if patience is not None:
            mode = experiment.checkpoint.mode or task.monitor_mode
            callbacks.append(
                ResumableEarlyStopping(
                    checkpointing.monitor,
                    mode=mode,
                    patience=patience,
                    min_delta=experiment.early_stopping.min_delta,
                )
            )
    # A signal writes a checkpoint, which must hold what early stopping made of the validation before it.
    return [*callbacks, StopOnSignal(checkpointing), checkpointing]


def share_out_cores(num_processes: int) -> None:
    """Give each process of this machine its share of the cores, unless OMP_NUM_THREADS says otherwise."""
    if "OMP_NUM_THREADS" not in os.environ or num_processes > 1:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        torch.set_num_threads(max(1, cores // num_processes))


def quiet() -> None:
    """Leave out what Lightning says of settings that are meant."""
    for name in ("lightning.pytorch", "lightning.fabric", "pytorch_lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for pattern in (
        ".*does not have many workers.*",
        ".*sync_dist=True.*",
        ".*LeafSpec.*",
        ".*lr_scheduler.step.*",
        ".*has been used as a.*",
        ".*isinstance.*treespec.*",
        ".*exists and is not empty.*",
        ".*The total number of parameters.*",
        ".*Matthews.*",
        ".*in eval mode at the start of training.*",
        ".*you have set.*val_dataloader.*",
        ".*GPU available but not used.*",
        ".*number of training batches.*",
        ".*Total length of.*",
        ".*called before the ``update``.*",
        ".*find_unused_parameters=True was specified.*",
        ".*returned a view tensor.*",
    ):
        warnings.filterwarnings("ignore", pattern)
