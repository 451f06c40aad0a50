"""Comparison of two finished runs in everything that must be equal."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any


def differences(one: object, other: object, path: str = "") -> Iterator[str]:
    """Yield the paths at which two values of plain containers and tensors differ, bit for bit."""
    import torch

    if type(one) is not type(other):
        yield path
    elif isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        same = one.dtype == other.dtype and one.shape == other.shape
        if not same or one.contiguous().numpy().tobytes() != other.contiguous().numpy().tobytes():
            yield path
    elif isinstance(one, dict) and isinstance(other, dict):
        for key in {**one, **other}:
            if key not in one or key not in other:
                yield f"{path}/{key}"
            else:
                yield from differences(one[key], other[key], f"{path}/{key}")
    elif isinstance(one, list | tuple) and isinstance(other, list | tuple):
        if len(one) != len(other):
            yield path
        for number, (mine, its) in enumerate(zip(one, other, strict=False)):
            yield from differences(mine, its, f"{path}/{number}")
    elif one != other and not (str(one) == str(other) == "nan"):
        yield path


def comparable(directory: Path) -> dict[str, Any]:
    """Return everything in a finished run that must be equal whenever it is repeated."""
    from bert_lightning.checkpoints.native import load_native
    from bert_lightning.runs.directory import RunDirectory
    from bert_lightning.training.throughput import THROUGHPUT_METRICS

    run = RunDirectory(directory)
    checkpoint = load_native((run.checkpoints / "last.ckpt").resolve())
    # The duration of the open log interval is the only time in it.
    checkpoint.pop("log_window_seconds")
    timed = ("time", *THROUGHPUT_METRICS)
    return {
        "checkpoint": checkpoint,
        "last": (run.checkpoints / "last.ckpt").resolve().name,
        "best": (run.checkpoints / "best.ckpt").resolve().name,
        "metrics": [{key: value for key, value in row.items() if key not in timed} for row in run.read_metrics()],
        "leftovers": sorted(path.name for path in directory.rglob(".*.tmp")),
        "ended": run.read_manifest()["ended"],
    }
