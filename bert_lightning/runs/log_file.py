"""The last lines of a log, the file with the output of a run. This module imports nothing heavy."""

import os
from pathlib import Path

# Bytes at the end of a log in which its last lines are.
_TAIL = 1 << 14


def last_lines(log: Path, most: int, start: int = 0) -> list[str]:
    """Return the last lines of a log that are not empty, without the headings of processes.

    If a progress bar wrote over a line, its last state counts. The lines may hold control characters.

    Args:
        log: the file; one that does not exist has no lines.
        most: how many lines.
        start: where in the file to begin, in bytes.
    """
    try:
        with open(log, "rb") as file:
            file.seek(max(start, file.seek(0, os.SEEK_END) - _TAIL))
            text = file.read(_TAIL).decode(errors="replace")
    except FileNotFoundError:
        return []
    except OSError as error:
        return [f"it cannot be read: {error.strerror or error}"]
    lines = [line.rstrip("\r").rpartition("\r")[2].rstrip() for line in text.split("\n")]
    return [line for line in lines if line and not line.startswith("=== ")][-most:]
