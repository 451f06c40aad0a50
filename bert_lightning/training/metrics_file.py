"""`metrics.jsonl`: one line per log interval or validation, written at once, so that a killed run keeps it."""

import errno
import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from bert_lightning.checkpoints.files import write_text
from bert_lightning.checkpoints.run_files import METRICS
from bert_lightning.errors import WorkError
from bert_lightning.training.metric_rows import read

NAME = METRICS


class MetricsFile(Logger):
    """A logger that appends lines with `step`, `time` (Unix seconds) and the metrics."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.path = folder / NAME

    @property
    def name(self) -> str:
        return NAME

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        append(self.path, {"step": step, **{k: v for k, v in metrics.items() if k not in ("epoch", "step")}})

    @rank_zero_only
    def log_hyperparams(self, *args: object, **kwargs: object) -> None:
        """Do nothing: `config.yaml` holds them."""


def append(path: Path, row: Mapping[str, object]) -> None:
    """Append one row with the time, and hand it to the operating system at once; NaN and infinity become null.

    Raises:
        WorkError: the disk is full or read-only.
    """
    line = _line({"time": round(time.time(), 3), **row})
    # One write per line, so that the lines of two processes never mix.
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            complete = os.write(descriptor, line.encode()) == len(line)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise WorkError(f"{path}: cannot be written: {error.strerror or error}") from None
    if not complete:
        raise WorkError(f"{path}: cannot be written: {os.strerror(errno.ENOSPC)}")


def forget_after(path: Path, step: int) -> None:
    """Drop the rows after `step`, because a resumed run writes them again."""
    rows = [row for row in read(path) if row.get("step", 0) <= step]
    write_text(path, "".join(map(_line, rows)))


def _line(row: Mapping[str, object]) -> str:
    finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
    return json.dumps(finite) + "\n"
