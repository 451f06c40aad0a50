"""A lock on a run directory, so that only one training runs there."""

import errno
import fcntl
import logging
import os
import socket
from pathlib import Path
from typing import IO

from bert_lightning.errors import InputError

log = logging.getLogger(__name__)
NAME = ".lock"


def holder(folder: Path) -> str | None:
    """Return which process has taken a folder, such as `process 17 on node3`; None if none has.

    Not for a folder that this process itself has taken: it would lose its lock.
    """
    try:
        with open(folder / NAME, "r+", encoding="utf-8") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                return _named(file) if error.errno in (errno.EACCES, errno.EAGAIN) else None
    except OSError:
        # Nobody can train where this file is missing or cannot be written.
        return None
    return None


def _named(file: IO[str]) -> str:
    """Return the process that the content of the locked file names."""
    file.seek(0)
    return file.read().strip() or "another process"


class DirectoryLock:
    """Lock that keeps other commands from working in a folder, on all machines that share its file system.

    It is a POSIX lock on a file that stays in the folder. The system releases it however this process ends, and
    forked processes do not share it. Nothing else may open that file: closing any descriptor of it releases the lock.

    Args:
        folder: the folder.
        work: what who has the lock does there, as messages say it.

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
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
        self._file = file

    def close(self) -> None:
        """Release the folder."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _warn(self, error: OSError) -> None:
        log.warning(
            "%s: cannot be locked (%s): another command in this directory would not be noticed",
            self.path,
            error.strerror or error,
        )
