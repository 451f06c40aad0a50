"""Signals that end training after the current step, with a checkpoint.

They are SIGTERM, SIGUSR1 and SIGUSR2 (as SLURM and submitit send them), SIGINT, and SIGHUP unless it is ignored.
The commands that train ignore SIGHUP, except under torchrun.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import torch
from lightning import Callback, LightningModule, Trainer
from torch.distributed import ProcessGroup

from bert_lightning.distributed.collectives import gather_objects, largest_number
from bert_lightning.errors import Interrupted, SharedWorkError
from bert_lightning.training.checkpointing import Checkpointing
from bert_lightning.training.guarded import FirstError

# Exit statuses: 143 if another program asks to end, 130 for Ctrl-C.
EXIT_STATUS = {
    **dict.fromkeys((signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP), 143),
    signal.SIGINT: 130,
}
# The number that processes exchange instead of a signal if a user's callback failed. It is greater than any signal.
_FAILED = 1 << 16


def signal_name(number: int) -> str:
    """Return the name of a signal; most real-time signals have none.

    >>> signal_name(9), signal_name(40)
    ('SIGKILL', 'signal 40')
    """
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class StoppedBySignal(Exception):
    """The end of training by a signal, after a checkpoint was written.

    Attributes:
        signal: the one that ended it.
    """

    def __init__(self, number: int) -> None:
        self.signal = signal.Signals(number)
        super().__init__(f"stopped by {self.signal.name}")


@contextmanager
def restore_signal_handlers() -> Iterator[None]:
    """Restore the signal handlers on exit."""
    before = {number: signal.getsignal(number) for number in EXIT_STATUS}
    try:
        yield
    finally:
        for number, handler in before.items():
            # None stands for a handler that was not installed from Python, which cannot be installed from here.
            if handler is not None:
                _handle(number, handler)


@contextmanager
def keyboard_interrupts() -> Iterator[None]:
    """Let SIGINT raise KeyboardInterrupt in the caller, as Python does, also while Lightning runs.

    Lightning ends the program on KeyboardInterrupt. Nothing changes where the caller has a handler of its own.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    with restore_signal_handlers():
        _handle(signal.SIGINT, _interrupt)
        try:
            yield
        except Interrupted:
            raise KeyboardInterrupt from None


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise Interrupted


def _handle(number: signal.Signals, handler: Callable[[int, FrameType | None], object] | int) -> None:
    """Install a signal handler. Outside the main thread Python allows none, and the program's own stay."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(number, handler)


class StopOnSignal(Callback):
    """A callback that ends training on a signal, in all processes at the end of the same step.

    It saves and raises `StoppedBySignal`, because after `should_stop` Lightning would validate first. After the last
    step training is finished, and a signal changes nothing. A second SIGINT interrupts at once. A third one ends the
    process without clean-up.

    An error in a user's callback stops training in the same way, also after the last step.

    Args:
        checkpointing: writes the checkpoint.
        first_error: the error of a callback that came before this one, if any.
    """

    def __init__(self, checkpointing: Checkpointing, first_error: FirstError | None = None) -> None:
        self.checkpointing = checkpointing
        self._first_error = first_error or FirstError()
        self._received = 0
        self._group: ProcessGroup | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Replace the command's signal handlers, which would end the process at once."""
        if trainer.world_size > 1 and torch.distributed.get_backend() != "gloo":
            # Exchange the signals through the CPU, so that a step does not wait for the device.
            timeout = getattr(trainer.strategy, "_timeout", None)
            self._group = torch.distributed.new_group(backend="gloo", timeout=timeout)
        for number in EXIT_STATUS:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                _handle(number, self._note)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Stop here if any process has received a signal, unless this is the last step or validation follows it.

        Raises:
            StoppedBySignal: in all processes, at the same step.
            SharedWorkError: a user's callback failed in one of them.
        """
        number, step, last = largest_number(self._reason, self._group), trainer.global_step, trainer.max_steps
        if number and (step < last or number == _FAILED) and not self.checkpointing.is_validated(step, last):
            self.checkpointing.save(trainer)
            self._stop(trainer, number)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop here if any process has received a signal, unless training ends anyway.

        Raises:
            StoppedBySignal: in all processes.
            SharedWorkError: a user's callback failed in one of them.
        """
        number = largest_number(self._reason, self._group)
        continues = trainer.global_step < trainer.max_steps and not trainer.should_stop
        if number and (continues or number == _FAILED):
            # Lightning would call `checkpointing` only after this callback.
            self.checkpointing.on_validation_end(trainer, pl_module)
            self._stop(trainer, number)

    @property
    def _reason(self) -> int:
        return _FAILED if self._first_error.message is not None else self._received

    def _stop(self, trainer: Trainer, number: int) -> None:
        self.checkpointing.wait(trainer)
        _ignore_signals()
        if number == _FAILED:
            message = next(filter(None, gather_objects(self._first_error.message)))
            raise SharedWorkError(message) from self._first_error.error
        raise StoppedBySignal(number)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Ignore signals while the end of training is recorded, until `restore_signal_handlers` exits."""
        _ignore_signals()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._received == signal.SIGINT == number:
            # A third SIGINT ends the process at once, so it cannot interrupt the clean-up halfway.
            signal.signal(number, lambda *_: os._exit(EXIT_STATUS[signal.SIGINT]))
            raise Interrupted
        self._received = number


def _ignore_signals() -> None:
    for number in EXIT_STATUS:
        _handle(number, signal.SIG_IGN)
