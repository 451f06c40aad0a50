"""SIGTERM, SIGUSR1 (as SLURM sends it) and SIGINT end training after the current step, with a checkpoint."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from bert_lightning.training.checkpointing import Checkpointing

# What the process exits with: 143 for both ways a scheduler asks, 130 for Ctrl-C.
EXIT_STATUS = {signal.SIGTERM: 143, signal.SIGUSR1: 143, signal.SIGINT: 130}


class StoppedBySignal(Exception):
    """Training ended on a signal; its checkpoint is written.

    Attributes:
        signal: the one that ended it.
    """

    def __init__(self, number: int) -> None:
        self.signal = signal.Signals(number)
        super().__init__(f"stopped by {self.signal.name}")


class Interrupted(BaseException):
    """A second SIGINT: training ends where it stands, without a checkpoint of its own.

    No KeyboardInterrupt, for which Lightning ends the process with status 1.
    """


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGINT raises `Interrupted` in here, until training itself takes it over.

    Raises:
        KeyboardInterrupt: for it, behind Lightning.
    """

    def interrupt(*_: Any) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    except Interrupted:
        raise KeyboardInterrupt from None
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """No signal that asks to stop is heard in here: training is finished, and what is left is to write that down."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in EXIT_STATUS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class StopOnSignal(Callback):
    """Notes a signal, agrees on it over all ranks at the end of a step, saves, and raises `StoppedBySignal` there.

    It raises rather than sets `should_stop`, since Lightning would validate first. Behind the last step training is
    finished, and a signal changes nothing. A second SIGINT interrupts at once.
    """

    def __init__(self, checkpointing: Checkpointing) -> None:
        self.checkpointing = checkpointing
        self._received = 0
        self._previous: dict[signal.Signals, Any] = {}
        self._ranks: Any = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over the signals from the command, which would end at once."""
        if trainer.world_size > 1 and torch.distributed.get_backend() != "gloo":
            # Through the processor, so that a step does not wait for what the device has still to do.
            timeout = getattr(trainer.strategy, "_timeout", None)
            self._ranks = torch.distributed.new_group(backend="gloo", timeout=timeout)
        for number in EXIT_STATUS:
            self._previous[number] = signal.signal(number, self._note)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop here if any rank has received a signal, unless this step is the last or still to be validated.

        Raises:
            StoppedBySignal: on all ranks, at the same step.
        """
        number, step, last = self._agreed(trainer), trainer.global_step, trainer.max_steps
        if number and step < last and not self.checkpointing.is_validated(step, last):
            self.checkpointing.save(trainer)
            self.checkpointing.wait(trainer)
            raise StoppedBySignal(number)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop here if any rank has received a signal; after the last step, or early stopping, training ends anyway.

        Raises:
            StoppedBySignal: on all ranks.
        """
        number = self._agreed(trainer)
        if number and trainer.global_step < trainer.max_steps and not trainer.should_stop:
            # Its own turn would come behind this one.
            self.checkpointing.on_validation_end(trainer, pl_module)
            self.checkpointing.wait(trainer)
            raise StoppedBySignal(number)

    def _agreed(self, trainer: Trainer) -> int:
        number = self._received
        if trainer.world_size > 1:
            received = torch.tensor(number)
            torch.distributed.all_reduce(received, op=torch.distributed.ReduceOp.MAX, group=self._ranks)
            number = int(received)
        return number

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the signals back; who has asked once does not tear what is written last by asking again."""
        for number, handler in self._previous.items():
            ignored = self._received and number != signal.SIGINT
            signal.signal(number, signal.SIG_IGN if ignored else handler)
        self._previous.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._received == signal.SIGINT == number:
            raise Interrupted
        self._received = number
