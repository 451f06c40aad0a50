"""Checkpoints that are complete or absent, verified when read, and the newest good one found by itself."""

import logging
import math
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import CheckpointIO
from torch.utils._pytree import tree_map_only

from bert_lightning.checkpoints.errors import CheckpointError
from bert_lightning.checkpoints.files import checksum_path, link_atomically, write_with_checksum
from bert_lightning.checkpoints.native import (
    BEST,
    LAST,
    damage,
    load_native,
    step_checkpoints,
    step_in_name,
    step_name,
)
from bert_lightning.checkpoints.shards import remove
from bert_lightning.checks import RefusedValue
from bert_lightning.errors import WorkError
from bert_lightning.training.background import Background

log = logging.getLogger(__name__)
SET_ASIDE = "set-aside"


@dataclass(frozen=True)
class CheckpointSettings:
    """When checkpoints are written and which are kept.

    Attributes:
        every_n_steps: write one every so many optimiser steps, beside those after each validation and at the end.
        keep_last: how many of them stay; the best one always does. With 1 there is none to go back to where the last
            one is found damaged.
        keep_every_n_steps: those of the multiples of so many steps stay too.
        asynchronous: copy the state to the processor's memory at the step and write it while training goes on, which
            costs that memory; the next checkpoint, a signal and the end wait for it.
        monitor: metric that decides which is the best; the task's own one unless given.
        mode: whether more or less of it is better; must be said where `monitor` is another than the task's own.
        sharded: each process writes its own part into a folder, rather than the first one everything into a file;
            with `trainer.strategy` fsdp only. Both are read by every command, strategy and number of processes.
    """

    every_n_steps: int | None = None
    keep_last: int = 2
    keep_every_n_steps: int | None = None
    asynchronous: bool = False
    monitor: str | None = None
    mode: Literal["min", "max"] | None = None
    sharded: bool = False

    def __post_init__(self) -> None:
        for name in ("every_n_steps", "keep_every_n_steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise RefusedValue(name, value, "be at least 1")
        if self.asynchronous and self.sharded:
            raise ValueError("asynchronous does not go with checkpoint.sharded: each process writes its own part")
        if self.keep_last < 1:
            raise RefusedValue("keep_last", self.keep_last, "be at least 1")


@contextmanager
def _one_message(path: Path) -> Iterator[None]:
    """A disk that is full or read-only, as what it is, from under what torch makes of it."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        raise WorkError(
            f"{path}: cannot be written: {cause.strerror or cause}. The checkpoints before it are as they were"
        ) from None


def _write(checkpoint: dict[str, Any], path: Path) -> None:
    with _one_message(path):
        if path.is_dir():
            remove(path)
        write_with_checksum(path, lambda file: torch.save(checkpoint, file))


def _copied(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to("cpu", copy=True)


class VerifiedCheckpointIO(CheckpointIO):
    """Writes atomically with a SHA-256 beside the file, and reads nothing that does not match it.

    Args:
        asynchronous: write in a thread, from a copy.
    """

    def __init__(self, asynchronous: bool = False) -> None:
        self._background = Background() if asynchronous else None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write `path`, complete or not at all.

        Args:
            checkpoint: plain values and tensors.
            path: the file.
            storage_options: entries of the checkpoint whose tensors are nobody else's, so that they need no copy.

        Raises:
            WorkError: it cannot be written, or one before it, by the thread, could not.
        """
        if self._background is None:
            return _write(checkpoint, Path(path))
        self._background.wait()
        copy = {
            name: entry if name in (storage_options or ()) else tree_map_only(torch.Tensor, _copied, entry)
            for name, entry in checkpoint.items()
        }
        return self._background.do(lambda: _write(copy, Path(path)))

    def then(self, work: Callable[[], object]) -> None:
        """Do `work` once what was given before is written."""
        if self._background is None:
            work()
        else:
            self._background.do(work)

    def wait(self) -> None:
        """Until all is written.

        Raises:
            WorkError: something could not be.
        """
        if self._background is not None:
            self._background.wait()

    def load_checkpoint(self, path: Any, map_location: Any | None = None, weights_only: Any = None) -> dict[str, Any]:
        """Read `path` after verifying it, executing no pickled code.

        Raises:
            CheckpointError: missing, damaged or not ours.
        """
        return load_native(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        """Remove the file or folder, then its checksum."""
        remove(Path(path))


def _io(trainer: Trainer) -> VerifiedCheckpointIO:
    io = trainer.strategy.checkpoint_io
    assert isinstance(io, VerifiedCheckpointIO)
    return io


class Checkpointing(Checkpoint):
    """Writes `step-*.ckpt` into a folder and keeps the links `last.ckpt` and `best.ckpt` there up to date.

    Where a step is validated, its checkpoint is written behind the validation: one from before it would resume
    without that validation.

    Args:
        folder: where checkpoints go.
        settings: when, and which stay.
        monitor: the task's metric that decides which is the best, unless the settings name one.
        mode: whether more (`max`) or less (`min`) of it is better.
        validation_interval: steps between validations; None where there are none.
    """

    def __init__(
        self, folder: Path, settings: CheckpointSettings, monitor: str, mode: str, validation_interval: int | None
    ) -> None:
        self.folder = folder
        self.validation_interval = validation_interval
        self.settings = settings
        self.monitor = settings.monitor or monitor
        self.sign = 1.0 if (settings.mode or mode) == "max" else -1.0
        self.best_score: float | None = None
        self.best_step: int | None = None
        self.saved_step = -1
        self._writes = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """The first process alone writes."""
        self._writes = trainer.is_global_zero

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What a run goes on from is there, and not written again: a kill then would leave none of that step."""
        if (self.folder / step_name(trainer.global_step)).exists():
            self.saved_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write one every `every_n_steps`."""
        interval, step = self.settings.every_n_steps, trainer.global_step
        if interval and step % interval == 0 and not self.is_validated(step, trainer.max_steps):
            self.save(trainer)

    def is_validated(self, step: int, last: int) -> bool:
        """Whether validation follows a step; `last` is the last of all."""
        return self.validation_interval is not None and (step % self.validation_interval == 0 or step == last)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write one, and remember whether it is the best so far."""
        score = float(trainer.callback_metrics[self.monitor])
        # A score that is no number is never the best.
        if not math.isnan(score) and (self.best_score is None or self.sign * score > self.sign * self.best_score):
            self.best_score, self.best_step = score, trainer.global_step
        self.save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the last one, also when training was stopped."""
        self.save(trainer)
        self.wait(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """What is being written is finished before the process ends; the exception is the message."""
        # Not on all ranks: some may be gone.
        if trainer.is_global_zero:
            with suppress(WorkError):
                _io(trainer).wait()

    def save(self, trainer: Trainer) -> None:
        """Write the checkpoint of the current step unless it is there; called on all ranks.

        Raises:
            WorkError: it cannot be written.
        """
        step = trainer.global_step
        if step == 0:
            return
        path = self.folder / step_name(step)
        if self.saved_step != step:
            trainer.save_checkpoint(path)
            self.saved_step = step
        if trainer.is_global_zero:
            writer = _io(trainer)
            is_best, needed = self.best_step == step, {step, self.best_step}
            writer.then(lambda: self._written(writer, path, is_best, needed))
        trainer.strategy.barrier("checkpoint")

    def wait(self, trainer: Trainer) -> None:
        """Until all is on the disk, on all ranks.

        Raises:
            WorkError: it could not be written.
        """
        if trainer.is_global_zero:
            _io(trainer).wait()
        trainer.strategy.barrier("written")

    def _written(self, writer: VerifiedCheckpointIO, path: Path, is_best: bool, needed: set[int | None]) -> None:
        """Point the links at the new checkpoint and remove what is no longer needed."""
        with _one_message(path):
            link_atomically(self.folder / LAST, path.name)
            if is_best:
                link_atomically(self.folder / BEST, path.name)
            every = self.settings.keep_every_n_steps
            for old in step_checkpoints(self.folder)[self.settings.keep_last :]:
                step = step_in_name(old)
                if step not in needed and not (every and step % every == 0):
                    writer.remove_checkpoint(old)

    def state_dict(self) -> dict[str, Any]:
        """The best score so far."""
        return {"best_score": self.best_score, "best_step": self.best_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on comparing with the best score so far, and point to its checkpoint.

        A run that was killed between writing a checkpoint and pointing to it points to the best one before that.
        """
        self.best_score, self.best_step = state_dict["best_score"], state_dict["best_step"]
        name = step_name(self.best_step or 0)
        if self._writes and (self.folder / name).exists():
            link_atomically(self.folder / BEST, name)


def newest_valid(folder: Path) -> Path | None:
    """The newest step checkpoint that verifies; the ones rejected on the way are logged by name.

    Raises:
        CheckpointError: there are checkpoints, but none is whole.
    """
    candidates = step_checkpoints(folder)
    for path in candidates:
        fault = damage(path)
        if fault is None:
            return path
        log.warning("%s %s; going back to the one before", path, fault)
    if candidates:
        raise CheckpointError(f"{folder}: none of its {len(candidates)} checkpoints is whole")
    return None


def set_aside(folder: Path, step: int) -> None:
    """Move the checkpoints behind `step` to `set-aside/`: a run that goes on from `step` will write its own.

    Also removes what killed processes left half-written, and checksums whose file they did not come to.
    """
    # A kill may also have hit the removal of one that was set aside before.
    for path in (*folder.glob(".*.tmp"), *folder.glob(f"{SET_ASIDE}/.*.tmp")):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    for path in folder.glob("step-*.sha256"):
        if not path.with_suffix("").exists():
            path.unlink()
    for path in step_checkpoints(folder):
        if path.name > step_name(step):
            aside = folder / SET_ASIDE
            aside.mkdir(exist_ok=True)
            if (aside / path.name).exists():
                remove(aside / path.name)
            os.replace(path, aside / path.name)
            if checksum_path(path).exists():
                os.replace(checksum_path(path), checksum_path(aside / path.name))
    for link in (folder / BEST, folder / LAST):
        if link.is_symlink() and not link.exists():
            link.unlink()
    if (folder / step_name(step)).exists():
        link_atomically(folder / LAST, step_name(step))
