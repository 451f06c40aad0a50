"""The values that a run uses where settings say `auto`, and the commit of the hub model that it starts from."""

import dataclasses
import importlib.util
from typing import Literal

import torch

from bert_lightning.checkpoints import hub
from bert_lightning.checkpoints.checkpoint import Checkpoint
from bert_lightning.config.experiment import Experiment
from bert_lightning.cores import multiply_bfloat16
from bert_lightning.data.loading.module import StepDataModule
from bert_lightning.errors import InputError
from bert_lightning.runs.directory import RunDirectory
from bert_lightning.runs.processes import is_first_process
from bert_lightning.runs.starting_point import start_checkpoint
from bert_lightning.training.micro_batch import LargestMicroBatch

# Compiling takes about a minute and saves about a tenth of each step, so it pays off in long runs only.
STEPS_THAT_REPAY_COMPILING = 2_000


def settle(experiment: Experiment, directory: RunDirectory | None) -> tuple[Experiment, Checkpoint | None]:
    """Settle the precision and the hub revision; return the experiment and the checkpoint that it starts from.

    A resumed run keeps the values in its directory. `directory` is None if the run has none. The returned checkpoint
    is None if training starts from random weights.

    `trainer.compile` and `trainer.accumulate_grad_batches` stay `auto` in the experiment, because a run may resume on
    another machine. `compiles` and `largest_micro_batch` choose their values for one call of `fit`.
    """
    return _pinned(settle_precision(experiment, directory), directory)


def settle_precision(experiment: Experiment, directory: RunDirectory | None) -> Experiment:
    """Replace `auto` by the fastest precision of this device; a resumed run keeps the precision it began with."""
    settings = experiment.trainer
    if settings.precision != "auto":
        return experiment
    before = None
    if directory is not None and directory.exists:
        before = directory.read_config().get("trainer", {}).get("precision")
    precision = before or _fastest_precision(settings.accelerator)
    return dataclasses.replace(experiment, trainer=dataclasses.replace(settings, precision=precision))


def _fastest_precision(accelerator: str) -> Literal["bf16-mixed", "32"]:
    return "bf16-mixed" if has_fast_bfloat16(accelerator) else "32"


def has_fast_bfloat16(accelerator: str = "auto") -> bool:
    """Return whether the device that training would use multiplies bfloat16 in hardware."""
    return multiply_bfloat16("cuda" if torch.cuda.is_available() and accelerator != "cpu" else "cpu")


def _pinned(experiment: Experiment, directory: RunDirectory | None) -> tuple[Experiment, Checkpoint | None]:
    """Add the commit to the name of the hub model to start from, and read that model.

    A resumed run keeps the commit it began with.
    """
    name = experiment.model.pretrained
    if name is not None and directory is not None and directory.exists:
        before = directory.read_config().get("model", {}).get("pretrained")
        if isinstance(before, str) and hub.is_pinned_form(name, before):
            experiment = _with_pretrained(experiment, before)
    start = start_checkpoint(experiment.model, experiment.modules)
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
    experiment: Experiment, data: StepDataModule, directory: RunDirectory, num_micro_batches: int | None
) -> LargestMicroBatch:
    """Make the callback that chooses `trainer.accumulate_grad_batches` and records it in the manifest.

    Args:
        experiment: the settings.
        data: makes the micro-batches.
        directory: the run's directory.
        num_micro_batches: per step, over all processes, if an earlier search found the number; otherwise None.

    Raises:
        InputError: the batch size changes during training.
    """
    if len(data.batch_shares) > 1:
        raise InputError(
            "trainer.accumulate_grad_batches auto cannot be combined with data.stages: set the number of each stage"
        )
    num_shares = experiment.trainer.num_shares

    def record(number: int) -> None:
        if is_first_process():
            directory.update_manifest(micro_batches=number * num_shares)

    # The number of shares may have changed since that search, so divide the micro-batches among the shares again.
    per_share = None
    if num_micro_batches is not None and num_micro_batches % num_shares == 0:
        per_share = num_micro_batches // num_shares
    return LargestMicroBatch(data.batch_size // num_shares, per_share, record)
