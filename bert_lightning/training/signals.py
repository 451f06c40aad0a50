"""SIGTERM, SIGUSR1 (as SLURM sends it) and SIGINT end training after the current step, with a checkpoint.

So does SIGHUP, unless it is ignored: `fit` and `reproduce` ignore it, except under torchrun.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from bert_lightning.errors import Interrupted
from bert_lightning.training.checkpointing import Checkpointing

# What the process exits with: 143 for the ways in which another program asks, 130 for Ctrl-C.
EXIT_STATUS = {signal.SIGTERM: 143, signal.SIGUSR1: 143, signal.SIGHUP: 143, signal.SIGINT: 130}


class StoppedBySignal(Exception):
    """Training ended on a signal; its checkpoint is written.

    Attributes:
        signal: the one that ended it.
    """

    def __init__(self, number: int) -> None:
        self.signal = signal.Signals(number)
        super().__init__(f"stopped by {self.signal.name}")


@contextmanager
def as_before() -> Iterator[None]:
    """Behind this, signals are heard as before it, whatever was done about them in here."""
    before = {number: signal.getsignal(number) for number in EXIT_STATUS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class StopOnSignal(Callback):
    """Notes a signal, agrees on it over all ranks at the end of a step, saves, and raises `StoppedBySignal` there.

    It raises rather than sets `should_stop`, since Lightning would validate first. Behind the last step training is
    finished, and a signal changes nothing. A second SIGINT interrupts at once, a third one does not wait for the end.
    """

    def __init__(self, checkpointing: Checkpointing) -> None:
        self.checkpointing = checkpointing
        self._received = 0
        self._ranks: Any = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over the signals from the command, which would end at once."""
        if trainer.world_size > 1 and torch.distributed.get_backend() != "gloo":
            # Through the processor, so that a step does not wait for what the device has still to do.
            timeout = getattr(trainer.strategy, "_timeout", None)
            self._ranks = torch.distributed.new_group(backend="gloo", timeout=timeout)
        for number in EXIT_STATUS:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._note)

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
            self._stop(trainer, number)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop here if any rank has received a signal; after the last step, or early stopping, training ends anyway.

        Raises:
            StoppedBySignal: on all ranks.
        """
        number = self._agreed(trainer)
        if number and trainer.global_step < trainer.max_steps and not trainer.should_stop:
            # Its own turn would come behind this one.
            self.checkpointing.on_validation_end(trainer, pl_module)
            self._stop(trainer, number)

    def _stop(self, trainer: Trainer, number: int) -> None:
        self.checkpointing.wait(trainer)
        _ignore_signals()
        raise StoppedBySignal(number)

    def _agreed(self, trainer: Trainer) -> int:
        number = self._received
        if trainer.world_size > 1:
            received = torch.tensor(number)
            torch.distributed.all_reduce(received, op=torch.distributed.ReduceOp.MAX, group=self._ranks)
            number = int(received)
        return number

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Training is finished: no signal is heard while that is written down, to the end of `as_before`."""
        _ignore_signals()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._received == signal.SIGINT == number:
            # Raised again it would come in the middle of tidying up, or be lost there.
            signal.signal(number, lambda *_: os._exit(EXIT_STATUS[signal.SIGINT]))
            raise Interrupted
        self._received = number


def _ignore_signals() -> None:
    for number in EXIT_STATUS:
        signal.signal(number, signal.SIG_IGN)
