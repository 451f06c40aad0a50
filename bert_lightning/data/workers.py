"""Processes that make batches: signals are for the training that they serve, which ends them itself."""

import ctypes
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkContext, ForkProcess
from multiprocessing.popen_fork import Popen
from multiprocessing.process import BaseProcess

# What a terminal or a scheduler sends to all processes of a job at once.
_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)

# Of linux/prctl.h.
_PR_SET_PDEATHSIG = 1


class _KilledWhenTerminated(Popen):
    def terminate(self) -> None:
        # Torch, and Python's own exit, end a worker that does not end by itself with the SIGTERM that it ignores,
        # and would then wait for ever.
        self.kill()


class _Worker(ForkProcess):
    @staticmethod
    def _Popen(process_obj: BaseProcess) -> Popen:  # noqa: N802 - multiprocessing's name
        return _KilledWhenTerminated(process_obj)


class WorkerContext(ForkContext):
    """What makes the items of a loader is no module-level function, which all other ways to begin a process need."""

    Process = _Worker


@contextmanager
def signals_held() -> Iterator[None]:
    """Workers begun in here receive no signal before `ignore_signals` has run in them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_signals(worker: int) -> None:
    """For the start of a worker: torch has by then set a handler of its own, which dies of SIGTERM."""
    for number in _ENDING:
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":
        # Else it would outlive a parent that is killed until it looks, which torch's workers do every five seconds.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
