"""Runs as tests start and compare them."""

from pathlib import Path

import torch

from bert_lightning.checkpoints.native import load_native
from bert_lightning.cli import main
from bert_lightning.runs.directory import RunDirectory
from bert_lightning.training.throughput import THROUGHPUT_METRICS


def fit(experiment: Path, run: Path, *overrides: object) -> int:
    """Train in this process, and return the exit status of `fit`."""
    return main(["fit", "--config", str(experiment), "--run-directory", str(run), *map(str, overrides)])


def weights(run: Path, name: str = "last.ckpt") -> dict[str, torch.Tensor]:
    """Return the weights of a checkpoint of a run."""
    return load_native((run / "checkpoints" / name).resolve())["state_dict"]


def logged(run: Path) -> list[dict]:
    """Return metrics without those that depend on machine and time."""
    rows = RunDirectory(run).read_metrics()
    return [{k: v for k, v in row.items() if k not in ("time", *THROUGHPUT_METRICS)} for row in rows]
