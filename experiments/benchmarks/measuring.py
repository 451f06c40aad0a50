"""What the benchmarks share: contenders in turn within one run, the ceiling of matrix products, the machine, JSON."""

import importlib.metadata
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch


def synchronize(device: torch.device) -> None:
    """Wait for what was queued."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def in_turn(
    contenders: Mapping[str, Callable[[], Sequence[float]]], rounds: int, until: float = float("inf")
) -> dict[str, list[float]]:
    """Let each contender run once a round; a run gives the seconds of its steps.

    No round but the first begins after `until`, a time of `time.perf_counter`.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds):
        if number and time.perf_counter() > until:
            break
        # The other way round every other time, so that none always follows the same one.
        names = list(contenders)[:: 1 if number % 2 == 0 else -1]
        for name in names:
            seconds[name] += contenders[name]()
    return seconds


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, and the middle half of the values."""
    ordered = sorted(values)
    low, high = ordered[len(ordered) // 4], ordered[-1 - len(ordered) // 4]
    return {"median": statistics.median(ordered), "low": low, "high": high, "num": len(ordered)}


def machine() -> dict[str, Any]:
    """Where and with what it was measured."""
    names = ("torch", "lightning", "transformers", "tokenizers")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": device,
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in names},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def write_json(path: Path | None, content: dict[str, Any]) -> None:
    """The figures for whoever reads them by program; `ratios` in it, which guard.py reads, are better when larger."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content | {"machine": machine()}, indent=2) + "\n", encoding="utf-8")
