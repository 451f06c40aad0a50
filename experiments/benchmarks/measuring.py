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
import torch.nn.functional as F


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


def best_product(shapes: Sequence[tuple[int, int, int]], dtype: torch.dtype, device: torch.device) -> float:
    """Operations a second of the fastest of the products (m, k) @ (k, n): the ceiling of whoever multiplies so."""
    best = 0.0
    for rows, inner, columns in shapes:
        left = torch.randn(rows, inner, device=device).to(dtype)
        right = torch.randn(columns, inner, device=device).to(dtype)
        operations = 2.0 * rows * inner * columns
        # Some milliseconds at a time, so that the clock's grain and a launch do not count.
        repeats = max(1, round(2e9 / operations)) if device.type == "cpu" else 20
        for _ in range(8):
            synchronize(device)
            began = time.perf_counter()
            for _ in range(repeats):
                F.linear(left, right)
            synchronize(device)
            best = max(best, operations * repeats / (time.perf_counter() - began))
    return best


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
