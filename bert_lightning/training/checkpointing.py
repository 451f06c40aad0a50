"""Checkpoints of a run: when they are written, atomically and with a checksum, and which are kept."""

import math
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import CheckpointIO
from torch.utils._pytree import tree_map_only

from bert_lightning.checkpoints.files import link_atomically, write_with_checksum
from bert_lightning.checkpoints.native import (
    BEST,
    LAST,
    load_native,
    step_checkpoints,
    step_in_name,
    step_name,
)
from bert_lightning.checkpoints.shards import remove
from bert_lightning.checks import require_at_least
from bert_lightning.errors import WorkError
from bert_lightning.training.background import Background
from bert_lightning.training.guarded import OwnPartError


@dataclass(frozen=True)
class CheckpointSettings:
    """When checkpoints are written, and which are kept.

    Attributes:
        every_n_steps: write one every this many steps, in addition to those after each validation and at the end.
        keep_last: how many of the latest are kept; the best one is always kept. With 1, a damaged last checkpoint
            leaves only the best one to resume from.
        keep_every_n_steps: also keep those at multiples of this many steps.
        asynchronous: copy the state to the processor's memory at the step, and write it while training continues.
            The copy needs that memory. The next checkpoint, a signal and the end of training wait for the writing.
        monitor: the metric that decides which checkpoint is the best; by default the task's metric.
        mode: `min` if lower values of the metric are better, `max` if higher ones are. It is required if `monitor` is
            not the task's metric.
        keep_training_state: keep what a resume needs in the checkpoints of a finished run. Otherwise, the last one,
            the best one and those of `keep_every_n_steps` keep their weights alone once the run has finished: a third
            of the size with AdamW, but no training can resume from them. All others are removed then.
        sharded: each process writes its slices into a folder; otherwise the first process writes everything into a
            file. It requires `trainer.strategy` fsdp. All commands and strategies read both, on any number of
            processes.
    """

    every_n_steps: int | None = None
    keep_last: int = 2
    keep_every_n_steps: int | None = None
    asynchronous: bool = False
    monitor: str | None = None
    mode: Literal["min", "max"] | None = None
    keep_training_state: bool = True
    sharded: bool = False

    def __post_init__(self) -> None:
        require_at_least(self, 1, "every_n_steps", "keep_every_n_steps", "keep_last")
        if self.asynchronous and self.sharded:
            raise ValueError(
                "asynchronous cannot be combined with checkpoint.sharded: each process writes its own shard"
            )
        if self.sharded and not self.keep_training_state:
            raise ValueError(
                "keep_training_state must be true with checkpoint.sharded: only files can be reduced to weights"
            )


@contextmanager
def _one_message(path: Path) -> Iterator[None]:
    """Turn the errors of a full or read-only disk into one message; torch wraps them in its own errors."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        raise WorkError(
            f"{path}: cannot be written: {cause.strerror or cause}. Earlier checkpoints are unchanged"
        ) from None


def write_checkpoint(checkpoint: dict[str, Any], path: Path) -> None:
    """Write a checkpoint with its checksum, complete or not at all.

    Raises:
        WorkError: it cannot be written.
    """
    with _one_message(path):
        if path.is_dir():
            remove(path)
        write_with_checksum(path, lambda file: torch.save(checkpoint, file))


def _copied(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to("cpu", copy=True)


class VerifiedCheckpointIO(CheckpointIO):
    """A plugin that writes checkpoints atomically, with their SHA-256 next to them, and verifies them on reading.

    Args:
        asynchronous: write in a thread, from a copy.
    """

    def __init__(self, asynchronous: bool = False) -> None:
        self._background = Background() if asynchronous else None

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Collection[str] | None = None
    ) -> None:
        """Write `path`, complete or not at all.

        Args:
            checkpoint: plain values and tensors.
            path: the file.
            storage_options: entries of the checkpoint whose tensors nothing else uses, so that they need no copy.

        Raises:
            WorkError: the file cannot be written, or the thread could not write an earlier one.
        """
        if self._background is None:
            return write_checkpoint(checkpoint, Path(path))
        self._background.wait()
        copy = {
            name: entry if name in (storage_options or ()) else tree_map_only(torch.Tensor, _copied, entry)
            for name, entry in checkpoint.items()
        }
        return self._background.do(lambda: write_checkpoint(copy, Path(path)))

    def do_after_writes(self, work: Callable[[], object]) -> None:
        """Do `work` after all earlier writes."""
        if self._background is None:
            work()
        else:
            self._background.do(work)

    def wait(self) -> None:
        """Wait until everything is written.

        Raises:
            WorkError: something could not be written.
        """
        if self._background is not None:
            self._background.wait()

    def load_checkpoint(
        self, path: str | Path, map_location: object = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read `path` after verifying it, without executing pickled code.

        Raises:
            CheckpointError: the file is missing, damaged or not a checkpoint of this package.
        """
        return load_native(Path(path))

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove the file or folder, then its checksum."""
        remove(Path(path))


def _io(trainer: Trainer) -> VerifiedCheckpointIO:
    io = trainer.strategy.checkpoint_io
    assert isinstance(io, VerifiedCheckpointIO)
    return io


class _Progress(NamedTuple):
    """How far training was at the end of a step. A checkpoint holds it."""

    batches: dict[str, Any]
    num_stepped: int
    loader: dict[str, Any]

    @classmethod
    def of(cls, trainer: Trainer) -> "_Progress":
        """Return the progress of a training whose step ends."""
        loop, loader = trainer.fit_loop.epoch_loop, cast(Any, trainer.train_dataloader)
        return cls(loop.batch_progress.state_dict(), loop._batches_that_stepped, loader.state_dict())

    def restore(self, trainer: Trainer) -> None:
        """Set the loop and the loader back to this progress, so that the batches after it are drawn again."""
        loop, loader = trainer.fit_loop.epoch_loop, cast(Any, trainer.train_dataloader)
        loop.batch_progress.load_state_dict(self.batches)
        loop._batches_that_stepped = self.num_stepped
        loader.load_state_dict(self.loader)


class Checkpointing(Checkpoint):
    """A callback that writes `step-*.ckpt` into a folder and updates the links `last.ckpt` and `best.ckpt` there.

    If validation follows a step, the checkpoint is written after the validation. Resuming from a checkpoint written
    before the validation would skip it.

    Args:
        folder: the folder of the checkpoints.
        settings: when checkpoints are written, and which are kept.
        monitor: the metric that decides which is the best, unless the settings name another; None if no score can
            decide. Then there is no `best.ckpt`.
        mode: `max` if more of it is better, else `min`.
        validation_interval: steps between validations; None without validation.
    """

    def __init__(
        self,
        folder: Path,
        settings: CheckpointSettings,
        monitor: str | None,
        mode: str,
        validation_interval: int | None,
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
        self._progress: _Progress | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._writes = trainer.is_global_zero

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the checkpoint that the run resumes from. It is not rewritten, because a kill might destroy it."""
        if (self.folder / step_name(trainer.global_step)).exists():
            self.saved_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        interval, step = self.settings.every_n_steps, trainer.global_step
        self._progress = _Progress.of(trainer)
        if interval and step % interval == 0 and not self.is_validated(step, trainer.max_steps):
            self.save(trainer)

    def is_validated(self, step: int, last: int) -> bool:
        """Return whether validation follows a step; `last` is the last step of the training."""
        return self.validation_interval is not None and (step % self.validation_interval == 0 or step == last)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write a checkpoint, and note whether it is the best so far."""
        if self.monitor is not None:
            score = float(trainer.callback_metrics[self.monitor])
            # A score of NaN is never the best.
            if not math.isnan(score) and (self.best_score is None or self.sign * score > self.sign * self.best_score):
                self.best_score, self.best_step = score, trainer.global_step
        self.save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the last checkpoint, also if training was stopped early."""
        self.save(trainer)
        self.wait(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Wait for the thread before the process ends. Suppress its errors, so that the exception is reported.

        If one of the user's callbacks failed between two steps, or gradients could not be computed, write the
        checkpoint of the last step first.
        """
        step = trainer.global_step
        if isinstance(exception, OwnPartError):
            is_complete = exception.allows_checkpoint
        else:
            # A step that failed before its update changed no weights. A resume computes it again.
            is_complete = isinstance(exception, Exception | SystemExit) and getattr(
                pl_module, "is_computing_gradients", False
            )
        is_due = trainer.world_size == 1 and not self.is_validated(step, trainer.max_steps)
        if is_complete and is_due and self._progress is not None:
            # The batch of the step that failed must be drawn again.
            self._progress.restore(trainer)
            with suppress(WorkError):
                self.save(trainer)
        # There is no barrier, because some processes may be gone.
        if trainer.is_global_zero:
            with suppress(WorkError):
                _io(trainer).wait()

    def save(self, trainer: Trainer) -> None:
        """Write the checkpoint of the current step unless it exists; called by all processes.

        Raises:
            WorkError: it cannot be written.
        """
        step = trainer.global_step
        if step == 0:
            return
        path = self.folder / step_name(step)
        if self.saved_step != step:
            # The disk must hold the values that a resumed run does not log again.
            for logger in trainer.loggers:
                logger.save()
            trainer.save_checkpoint(path)
            self.saved_step = step
        if trainer.is_global_zero:
            writer = _io(trainer)
            is_best, needed = self.best_step == step, {step, self.best_step}
            writer.do_after_writes(lambda: self._written(writer, path, is_best, needed))
        trainer.strategy.barrier("checkpoint")

    def wait(self, trainer: Trainer) -> None:
        """Wait until everything is on the disk; called by all processes.

        Raises:
            WorkError: something could not be written.
        """
        if trainer.is_global_zero:
            _io(trainer).wait()
        trainer.strategy.barrier("written")

    def _written(self, writer: VerifiedCheckpointIO, path: Path, is_best: bool, needed: set[int | None]) -> None:
        """Point the links to the new checkpoint, and remove checkpoints that are no longer needed."""
        with _one_message(path):
            link_atomically(self.folder / LAST, path.name)
            if is_best:
                link_atomically(self.folder / BEST, path.name)
            interval = self.settings.keep_every_n_steps
            for old in step_checkpoints(self.folder)[self.settings.keep_last :]:
                step = step_in_name(old)
                if step not in needed and not (interval and step % interval == 0):
                    writer.remove_checkpoint(old)

    def state_dict(self) -> dict[str, float | int | None]:
        """Return the best score so far, and its step."""
        return {"best_score": self.best_score, "best_step": self.best_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue with the best score so far, and point the link to its checkpoint.

        The link is outdated if the run was killed after it wrote the checkpoint and before it moved the link.
        """
        if self.monitor is None:
            # An earlier version chose one by scores that say nothing.
            if self._writes and (self.folder / BEST).is_symlink():
                (self.folder / BEST).unlink()
            return
        self.best_score, self.best_step = state_dict["best_score"], state_dict["best_step"]
        name = step_name(self.best_step or 0)
        if self._writes and (self.folder / name).exists():
            link_atomically(self.folder / BEST, name)
