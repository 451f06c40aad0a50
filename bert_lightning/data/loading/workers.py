"""Processes that make batches: signals are for the training that they serve, which ends them itself."""

import ctypes
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.context import ForkContext, ForkProcess
from multiprocessing.popen_fork import Popen
from multiprocessing.process import BaseProcess

# What a terminal or a scheduler sends to all processes of a job at once.
_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)

_SECONDS_TO_BEGIN = 10.0

# Of linux/prctl.h.
_PR_SET_PDEATHSIG = 1


class _KilledWhenTerminated(Popen):
    def terminate(self) -> None:
        # Torch, and Python's own exit, end a worker that does not end by itself with the SIGTERM that it ignores,
        # and would then wait for ever.
        self.kill()


class _Worker(ForkProcess):
    """One that never begins is forked again.

    Python before 3.12 may leave a lock of its own closed that another thread held at the fork: the new process then
    stands still before its first line (github.com/python/cpython/issues/112275), and training would wait for it.
    """

    _ends: tuple[socket.socket, socket.socket]

    @staticmethod
    def _Popen(process_obj: BaseProcess) -> Popen:  # noqa: N802 - multiprocessing's name
        assert isinstance(process_obj, _Worker)
        seconds = _SECONDS_TO_BEGIN
        while True:
            ours, its = process_obj._ends = socket.socketpair()
            with ours, its:
                started = _KilledWhenTerminated(process_obj)
                its.close()
                ours.settimeout(seconds)
                try:
                    if ours.recv(1):
                        with suppress(BrokenPipeError):
                            ours.send(b".")
                    # One that died is missed by whoever waits for what it makes.
                    return started
                except TimeoutError:
                    # Where it is but slow it holds nothing yet: it does not begin without an answer.
                    started.kill()
                    started.wait()
                    started.close()
                    seconds *= 2

    def run(self) -> None:
        """Say that it is there, and do its work once it may."""
        ours, its = self._ends
        ours.close()
        with its:
            its.send(b".")
            answered = its.recv(1)
        if answered:
            super().run()


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
