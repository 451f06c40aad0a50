"""The processes of `fit` that studies and `fit --seeds` start, and what they share of the machine."""

import errno
import fcntl
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from bert_lightning.cores import CORES_VARIABLE
from bert_lightning.runs.lock import NAME as LOCK
from bert_lightning.runs.lock import holder, lock_holder

# Seconds that the other processes of a run have to end after the first one, and again after they are asked to.
_GRACE = 10.0
_SOME = "a process of an earlier command"


class Processes:
    """The processes of `fit` that run now.

    If the context is left by an exception, such as an interrupt, it ends them. Whoever waits for one in `fit` gets
    its status after it has written its checkpoint.

    Attributes:
        ended: whether they were asked to end; then no other one starts.
    """

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()
        self._starting = threading.Lock()
        self.ended = False

    def fit(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        output: IO[bytes] | None = None,
        own_session: bool = False,
    ) -> int | None:
        """Run `fit` to its end, and return its exit status; None if no process may start any more.

        Args:
            arguments: those after `fit`.
            environment: all variables of the process.
            output: gets what the process prints; None for the streams of this process.
            own_session: whether the process leads a session of its own. Then signals of the terminal do not reach it,
                and processes that it left behind are ended.
        """
        command = [sys.executable, "-m", "bert_lightning", "fit", *arguments]
        with self._starting:
            if self.ended:
                return None
            process = subprocess.Popen(
                command,
                env=dict(environment),
                stdin=subprocess.DEVNULL if own_session else None,
                stdout=output,
                stderr=subprocess.STDOUT if output is not None else None,
                start_new_session=own_session,
            )
            self._running.add(process)
        try:
            return process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
        finally:
            self._running.discard(process)
            if own_session:
                _end_group(process.pid)

    def end(self) -> None:
        """Let the processes write checkpoints and end, and start no other one."""
        with self._starting:
            self.ended = True
        for process in list(self._running):
            process.terminate()

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.end()


def _end_group(leader: int) -> None:
    """End what is left of a process group whose leader has ended, such as other processes of a training.

    They would wait for the leader, for half an hour, with their memory and the log of the run.
    """
    for number in (0, signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError, PermissionError):
            if number:
                os.killpg(leader, number)
            deadline = time.monotonic() + _GRACE
            while time.monotonic() < deadline:
                os.killpg(leader, 0)
                time.sleep(0.05)
            continue
        return


def with_cores(environment: Mapping[str, str], num_cores: int, num_processes: int = 1) -> dict[str, str]:
    """Return an environment in which a training of some processes uses a number of cores.

    The user's own OMP_NUM_THREADS stays.
    """
    threads = str(max(1, num_cores // num_processes))
    return {"OMP_NUM_THREADS": threads, CORES_VARIABLE: str(num_cores), **environment}


def lock_for_children(log: IO[bytes]) -> bool:
    """Lock an open log, and return False if another process has done so.

    The processes that inherit it keep the lock, however this process ends, until the last of them has ended. A file
    system without locks counts as free; the lock of the run directory warns about that.
    """
    try:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EACCES)
    return True


def begin_log(log: IO[bytes], arguments: Sequence[str]) -> None:
    """Write the line with which the output of a process of `fit` begins: time, machine and command."""
    started = time.strftime("%Y-%m-%d %H:%M:%S")
    line = f"=== {started} on {socket.gethostname()}: bert-lightning fit {shlex.join(arguments)}\n"
    log.write(line.encode())
    log.flush()


def running_process(directory: Path) -> str | None:
    """Return the process that trains a run now, such as `process 17 on node3`; None if none does."""
    with suppress(FileNotFoundError), open(f"{directory}.log", "r+b") as log:
        if not lock_for_children(log):
            # It may be about to lock the directory, where this process must not be in its way.
            with suppress(OSError):
                return (directory / LOCK).read_text(encoding="utf-8").strip() or _SOME
            return _SOME
    return holder(directory)


def signal_run(directory: Path, number: signal.Signals) -> bool:
    """Send a signal to the first process of a run that trains on this machine, and return whether there is one.

    The others of the run learn of it from the first. A run that has not locked its directory yet gets none.
    """
    try:
        name = lock_holder(directory) or ""
    except OSError:
        return False
    found = re.fullmatch(r"process (\d+) on (.+)", name)
    if found is None or found[2] != socket.gethostname():
        return False
    with suppress(ProcessLookupError, PermissionError):
        os.kill(int(found[1]), number)
        return True
    return False
