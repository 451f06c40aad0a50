"""Reading of `metrics.jsonl`, or of its last rows alone. This module imports nothing heavy."""

import json
import math
import os
from pathlib import Path
from typing import Any


def read(path: Path) -> list[dict[str, Any]]:
    """Return all complete rows, without a line that was cut short when the run was killed."""
    return _rows(path.read_bytes()) if path.is_file() else []


def damaged_line(path: Path) -> int | None:
    """Return the number of the first line that holds no row, from 1; None if all do.

    The last line does not count if it has no line end, because a kill may have cut it short.
    """
    *lines, _ = path.read_bytes().split(b"\n")
    return next((number for number, line in enumerate(lines, 1) if line.strip() and not _rows(line)), None)


def read_last(path: Path, num_bytes: int) -> list[dict[str, Any]]:
    """Return the complete rows among the last bytes, so that a long file costs no more than a short one."""
    if not path.is_file():
        return []
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - num_bytes))
        # The first line may have begun before these bytes; what is left of it is no JSON object.
        return _rows(file.read(num_bytes))


def _rows(content: bytes) -> list[dict[str, Any]]:
    rows = []
    for line in content.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append({key: math.nan if value is None else value for key, value in row.items()})
    return rows
