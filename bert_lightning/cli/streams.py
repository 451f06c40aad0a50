"""Standard streams that still work after a closed descriptor, a full disk, a lost terminal, or a broken pipe."""

import errno
import io
import os
import select
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

STANDARD_OUTPUT = "standard output"
_NAMES = ("standard input", STANDARD_OUTPUT, "standard error")


class Descriptor(io.FileIO):
    """The raw file of a standard stream, without its buffer and its encoding.

    A message that cannot be written is dropped, so that it does not end the work. If the output is the result of a
    command, `drops` is False and the error is raised.

    Args:
        number: the number of the file descriptor, 1 or 2.
        was_closed: whether the descriptor was closed when the process began, so that /dev/null replaces it.
    """

    def __init__(self, number: int, was_closed: bool) -> None:
        super().__init__(number, "wb", closefd=False)
        self.drops = True
        self._was_closed = was_closed

    def write(self, data: "ReadableBuffer") -> int:
        """Write some or all bytes, and return the number of bytes written or dropped.

        Raises:
            OSError: the bytes cannot be written and `drops` is False. Its `filename` names the stream.
        """
        try:
            if self._was_closed:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            while (written := super().write(data)) is None:
                # Another program made the descriptor non-blocking, and its buffer is full.
                select.select([], [self], [])
            return written
        except OSError as error:
            if self.drops:
                return memoryview(data).nbytes
            raise OSError(error.errno, error.strerror, _NAMES[self.fileno()]) from None


def keep_standard_streams() -> None:
    """Replace the standard streams by ones that can drop output. Call this once, before any file is opened.

    A closed descriptor is opened on /dev/null. Otherwise the next file that is opened, such as a checkpoint, would
    become standard error, and messages would be written into it. Characters outside the terminal's encoding are
    escaped.
    """
    was_closed = [_open_if_closed(number) for number in range(3)]
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115 - it stays open
    sys.stdout = sys.__stdout__ = _stream(sys.stdout, 1, was_closed[1])  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = _stream(sys.stderr, 2, was_closed[2])  # type: ignore[misc]


def drop_output(drops: bool) -> None:
    """Choose whether output that cannot be written is dropped or raises an error."""
    descriptor = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    if isinstance(descriptor, Descriptor):
        descriptor.drops = drops


def _open_if_closed(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        opened = os.open(os.devnull, os.O_RDWR)
        if opened != number:
            os.dup2(opened, number)
            os.close(opened)
        # Child processes need it too.
        os.set_inheritable(number, True)
        return True
    return False


def _stream(stream: TextIO | None, number: int, was_closed: bool) -> io.TextIOWrapper:
    if stream is not None:
        stream.flush()
    raw = Descriptor(number, was_closed)
    # As in Python: standard error and terminals are flushed after each line; with PYTHONUNBUFFERED every stream is.
    by_line = number == 2 or raw.isatty() or getattr(stream, "write_through", False)
    encoding = stream.encoding if stream is not None else "utf-8"
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, errors="backslashreplace", line_buffering=by_line)
