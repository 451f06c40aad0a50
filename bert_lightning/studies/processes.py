"""The processes of `fit` that studies and `fit --seeds` start, their cores, and the locks on their logs."""

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
from bert_lightning.runs.lock import lock_holder

# Seconds that the other processes of a run have to end after the first one, and again after SIGTERM.
_GRACE = 10.0
_SOME = "a process of an earlier command"


class Processes:
    """The processes of `fit` that run now.

    As a context manager it ends them if an exception, such as an interrupt, leaves the context. Each call of `fit`
    then returns the status of its process, after that has written its checkpoint.

    Attributes:
        ended: whether `end` was called. Then no further process starts.
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
        """Run the command `fit` to its end, and return its exit status; None if `end` was called before.

        Args:
            arguments: the arguments of `fit`.
            environment: all environment variables of the process.
            output: the file for the output of the process; None for the streams of this process.
            own_session: whether the process leads its own session. Then signals of the terminal do not reach it, and
                processes that it leaves behind are ended.
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
        """Let the processes write checkpoints and end, and start no further one."""
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
    """End the processes of a group whose leader has ended, such as the other ranks of a training.

    They would wait for the leader for half an hour, and keep their memory and the lock on the log of the run.
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
    """Return an environment in which the processes of one training use a number of cores together.

    An OMP_NUM_THREADS that the user has set stays.
    """
    threads = str(max(1, num_cores // num_processes))
    return {"OMP_NUM_THREADS": threads, CORES_VARIABLE: str(num_cores), **environment}


def lock_for_children(log: IO[bytes]) -> bool:
    """Lock an open log, and return False if another process holds its lock.

    Child processes inherit the open file, so the lock is held until the last of them has ended, however this process
    ends. On a file system without locks it returns True; the lock of the run directory warns about that.
    """
    try:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EACCES)
    return True


def begin_log(log: IO[bytes], arguments: Sequence[str]) -> None:
    """Write a heading to the log before the output of a process of `fit`: time, machine and command."""
    started = time.strftime("%Y-%m-%d %H:%M:%S")
    line = f"=== {started} on {socket.gethostname()}: bert-lightning fit {shlex.join(arguments)}\n"
    log.write(line.encode())
    log.flush()


def running_process(directory: Path) -> str | None:
    """Return a description of the process that trains a run now, such as `process 17 on node3`; None without one."""
    with suppress(FileNotFoundError), open(f"{directory}.log", "r+b") as log:
        if not lock_for_children(log):
            # The process may be about to lock the directory. Trying to lock it here could make that fail.
            with suppress(OSError):
                return (directory / LOCK).read_text(encoding="utf-8").strip() or _SOME
            return _SOME
    with suppress(OSError):
        return lock_holder(directory)
    return None


def signal_run(directory: Path, number: signal.Signals) -> bool:
    """Send a signal to the first process of a run that trains on this machine, and return whether it was sent.

    The first process tells the other ranks. A run that has not locked its directory yet does not get the signal.
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
