"""Choices that a configuration leaves open: directory, precision, hub revision, compiling and micro-batches."""

import dataclasses
import importlib.util
import os
from pathlib import Path
from typing import Literal

import torch
from lightning.pytorch.plugins.environments import SLURMEnvironment

from bert_lightning.checkpoints import hub
from bert_lightning.checkpoints.checkpoint import Checkpoint
from bert_lightning.config.experiment import Experiment
from bert_lightning.data.loading.module import StepDataModule
from bert_lightning.errors import InputError
from bert_lightning.runs.directory import RunDirectory, default_directory
from bert_lightning.runs.processes import is_first_process
from bert_lightning.runs.starting_point import start_checkpoint
from bert_lightning.training.micro_batch import LargestMicroBatch

# The first process tells those that Lightning starts for the other ranks where the run is.
DIRECTORY_VARIABLE = "BERT_LIGHTNING_RUN_DIRECTORY"
# Compiling takes about a minute. Saving a tenth of each step has to repay it.
STEPS_THAT_REPAY_COMPILING = 2_000


def choose_directory(experiment: Experiment, path: Path | None, resume: str) -> RunDirectory:
    """Return the directory of a run: `path` if it is given, otherwise one named after the configuration.

    With `resume` `never`, a number is added to the name until no run is there.

    Raises:
        InputError: `never` with a directory that holds a run, or a directory with other files in it.
    """
    if DIRECTORY_VARIABLE in os.environ and not is_first_process():
        return RunDirectory(os.environ[DIRECTORY_VARIABLE])
    base = default_directory(experiment)
    if not is_first_process():
        # torchrun and srun start all processes at once: the first one checks, the others follow.
        return RunDirectory(path or base)
    if resume == "never" and path is None and ("TORCHELASTIC_RUN_ID" in os.environ or SLURMEnvironment.detect()):
        raise InputError(
            "--resume never under torchrun or srun needs --run-directory, so that all processes agree on it"
        )
    if path is not None:
        directory = RunDirectory(path)
        if directory.exists and resume == "never":
            raise InputError(f"{path} holds a run already, and --resume never starts a new one")
        if not directory.exists and not directory.is_free:
            raise InputError(f"{path} is not empty and no run directory: choose another --run-directory")
        return directory
    directory = RunDirectory(base)
    number = 2
    while resume == "never" and directory.exists:
        directory = RunDirectory(base.with_name(f"{base.name}-{number}"))
        number += 1
    return directory


def settle(experiment: Experiment, directory: RunDirectory) -> tuple[Experiment, Checkpoint | None]:
    """Settle the precision and the hub revision; return the experiment and the checkpoint that it starts from.

    `trainer.compile` and `trainer.accumulate_grad_batches` stay `auto` in the experiment, because a run may resume on
    another machine. `compiles` and `largest_micro_batch` settle them for one call of `fit`.
    """
    return _pinned(settle_precision(experiment, directory), directory)


def settle_precision(experiment: Experiment, directory: RunDirectory) -> Experiment:
    """Replace `auto` by the fastest precision of this device; a resumed run keeps the precision it began with."""
    settings = experiment.trainer
    if settings.precision != "auto":
        return experiment
    before = directory.read_config().get("trainer", {}).get("precision") if directory.exists else None
    precision = before or _fastest_precision(settings.accelerator)
    return dataclasses.replace(experiment, trainer=dataclasses.replace(settings, precision=precision))


def _fastest_precision(accelerator: str) -> Literal["bf16-mixed", "32"]:
    return "bf16-mixed" if has_fast_bfloat16(accelerator) else "32"


def has_fast_bfloat16(accelerator: str = "auto") -> bool:
    """Return whether the device that training would use multiplies bfloat16 in hardware."""
    if torch.cuda.is_available() and accelerator != "cpu":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def _pinned(experiment: Experiment, directory: RunDirectory) -> tuple[Experiment, Checkpoint | None]:
    """Add the commit to the name of the hub model to start from, and read that model.

    A resumed run keeps the commit it began with.
    """
    name = experiment.model.pretrained
    if name is not None and directory.exists:
        before = directory.read_config().get("model", {}).get("pretrained")
        if isinstance(before, str) and hub.is_pinned_form(name, before):
            experiment = _with_pretrained(experiment, before)
    start = start_checkpoint(experiment.model)
    revision = start.provenance.revision if start is not None and start.provenance is not None else None
    if revision is not None and experiment.model.pretrained is not None:
        experiment = _with_pretrained(experiment, hub.pinned(experiment.model.pretrained, revision))
    return experiment, start


def _with_pretrained(experiment: Experiment, name: str) -> Experiment:
    return dataclasses.replace(experiment, model=dataclasses.replace(experiment.model, pretrained=name))


def compiles(experiment: Experiment, steps: int) -> bool:
    """Return whether the training step is compiled; `auto` compiles if the run is long enough to repay it."""
    settings = experiment.trainer
    if settings.compile != "auto":
        return settings.compile
    on_gpu = torch.cuda.is_available() and settings.accelerator != "cpu" and settings.strategy != "fsdp"
    return on_gpu and steps >= STEPS_THAT_REPAY_COMPILING and importlib.util.find_spec("triton") is not None


def largest_micro_batch(
    experiment: Experiment, data: StepDataModule, directory: RunDirectory, found: int | None
) -> LargestMicroBatch:
    """Make the callback that settles `trainer.accumulate_grad_batches: auto` and records the result in the manifest.

    Args:
        experiment: the settings.
        data: what is split into micro-batches.
        directory: of the run.
        found: micro-batches of a step over all processes that were found before, if they were.

    Raises:
        InputError: the batch size changes during training.
    """
    if len(data.batch_shares) > 1:
        raise InputError("trainer.accumulate_grad_batches auto does not go with data.stages: give each stage its own")
    world_size = experiment.trainer.num_processes

    def record(number: int) -> None:
        if is_first_process():
            directory.update_manifest(micro_batches=number * world_size)

    # If the number of processes changed, each takes its share of the micro-batches that were found.
    own = found // world_size if found is not None and found % world_size == 0 else None
    return LargestMicroBatch(data.batch_size // world_size, own, record)
