"""Worker processes that make micro-batches. They ignore signals; the training process stops them."""

import ctypes
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.context import ForkContext, ForkProcess
from multiprocessing.popen_fork import Popen
from multiprocessing.process import BaseProcess

# A terminal or a scheduler sends these to all processes of a job at once.
_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)

_SECONDS_TO_START = 10.0

# From linux/prctl.h.
_PR_SET_PDEATHSIG = 1


class _KilledWhenTerminated(Popen):
    def terminate(self) -> None:
        # Torch and Python's exit send SIGTERM to a worker that does not end by itself. The worker ignores SIGTERM, so
        # they would wait for it forever.
        self.kill()


class _Worker(ForkProcess):
    """A worker that is forked again if it never starts.

    If another thread holds one of Python's locks at the fork, Python before 3.12 may leave it locked in the new
    process. That process then hangs before its first line (github.com/python/cpython/issues/112275), and training
    would wait for it forever.
    """

    _ends: tuple[socket.socket, socket.socket]

    @staticmethod
    def _Popen(process_obj: BaseProcess) -> Popen:  # noqa: N802 - multiprocessing's name
        assert isinstance(process_obj, _Worker)
        seconds = _SECONDS_TO_START
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
                    # If the worker has died, the process that reads its micro-batches will notice.
                    return started
                except TimeoutError:
                    # The worker may only be slow. It can be killed, because it waits for an answer before its work.
                    started.kill()
                    started.wait()
                    started.close()
                    seconds *= 2

    def run(self) -> None:
        """Report that the process runs, wait for the answer, and start the work."""
        ours, its = self._ends
        ours.close()
        with its:
            its.send(b".")
            answered = its.recv(1)
        if answered:
            super().run()


class WorkerContext(ForkContext):
    """Forked processes: `spawn` would have to pickle `make`, which is no module-level function."""

    Process = _Worker


@contextmanager
def signals_held() -> Iterator[None]:
    """Block signals to workers that are started in this context, until `ignore_signals` has run in them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_signals(worker: int) -> None:
    """Ignore signals in a worker, at its start. This also replaces torch's handler, which ends it on SIGTERM."""
    for number in _ENDING:
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":
        # If the parent is killed, torch's workers notice only every five seconds; this ends them at once.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
