"""A lock on a run directory, so that only one training runs there."""

import errno
import fcntl
import logging
import os
import socket
import struct
import sys
from pathlib import Path
from typing import IO

from bert_lightning.errors import InputError

log = logging.getLogger(__name__)
NAME = ".lock"
# The C structure `flock` on 64-bit systems, and which of its fields is the type of the lock.
_FLOCK, _TYPE = ("qqihh", 3) if sys.platform == "darwin" else ("hhqqi4x", 0)
# Process, device and inode of the lock files that are held. A forked process inherits the set, but no lock.
_held: set[tuple[int, int, int]] = set()


def _named(file: IO[str]) -> str:
    """Return the process that the content of the locked file names."""
    file.seek(0)
    return file.read().strip() or "another process"


class DirectoryLock:
    """Lock that keeps other commands from working in a folder, on all machines that share its file system.

    It is a POSIX lock on a file that stays in the folder. The system releases it however this process ends, and
    forked processes do not share it. Nothing else in this process may open that file: closing any descriptor of it
    releases the lock. `lock_holder` looks at a lock without touching it.

    Args:
        folder: the folder.
        work: the work of the process that holds the lock, as a verb for messages.

    Attributes:
        taken: whether `take` was called. If the file system cannot lock, `take` only logs a warning.
    """

    def __init__(self, folder: Path, work: str = "is training") -> None:
        self.path = folder / NAME
        self._work = work
        self.taken = False
        self._file: IO[str] | None = None

    def take(self) -> None:
        """Take the folder for this process, creating it if needed. A second call does nothing.

        Raises:
            InputError: another process has taken the folder; nothing was changed.
            OSError: the folder cannot be created.
        """
        if self.taken:
            return
        self.taken = True
        folder = self.path.parent
        folder.mkdir(parents=True, exist_ok=True)
        try:
            file = open(self.path, "a+", encoding="utf-8")  # noqa: SIM115
        except OSError as error:
            # In a read-only folder, the first file that is written reports the problem.
            if os.access(folder, os.W_OK):
                self._warn(error)
            return
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                name = _named(file)
                file.close()
                raise InputError(
                    f"{folder}: {name} {self._work} there: wait for its end, or choose another directory"
                ) from None
            self._warn(error)
        else:
            file.truncate(0)
            file.write(f"{_this_process()}\n")
            file.flush()
            _held.add(_key(os.fstat(file.fileno())))
        self._file = file

    def close(self) -> None:
        """Release the folder."""
        if self._file is not None:
            _held.discard(_key(os.fstat(self._file.fileno())))
            self._file.close()
            self._file = None

    def _warn(self, error: OSError) -> None:
        log.warning(
            "%s: cannot be locked (%s): another command in this directory would not be noticed",
            self.path,
            error.strerror or error,
        )


def lock_holder(folder: Path) -> str | None:
    """Return who holds the lock on a folder, such as "process 12 on host"; None if nobody does.

    The lock is not touched: a command that starts meanwhile can take it, and one that this process holds stays held.

    Raises:
        OSError: the lock cannot be looked at: the file system cannot lock, or this user may not read the file.
    """
    path = folder / NAME
    try:
        # In the process that holds the lock, opening and closing the file would release it.
        if _key(path.stat()) in _held:
            return _this_process()
        with open(path, "rb") as file:
            fields = [0] * 5
            fields[_TYPE] = fcntl.F_WRLCK
            answer = struct.unpack(_FLOCK, fcntl.fcntl(file, fcntl.F_GETLK, struct.pack(_FLOCK, *fields)))
            if answer[_TYPE] == fcntl.F_UNLCK:
                return None
            return file.read().decode(errors="replace").strip() or "another process"
    except (FileNotFoundError, NotADirectoryError):
        return None


def _this_process() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


def _key(status: os.stat_result) -> tuple[int, int, int]:
    return os.getpid(), status.st_dev, status.st_ino
