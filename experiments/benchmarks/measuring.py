"""Measuring for all benchmarks: contenders in turn, the spread of values, the machine, and results as JSON."""

import importlib.metadata
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished its queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def in_turn(
    contenders: Mapping[str, Callable[[], Sequence[float]]], rounds: int, until: float = float("inf")
) -> dict[str, list[float]]:
    """Run each contender once per round, and collect their seconds per step.

    Args:
        contenders: name -> function that runs some steps and returns the seconds of each.
        rounds: the number of rounds.
        until: a time of `time.perf_counter`, after which no round except the first begins.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds):
        if number and time.perf_counter() > until:
            break
        # Reverse the order every other round, so that no contender always follows the same one.
        names = list(contenders)[:: 1 if number % 2 == 0 else -1]
        for name in names:
            seconds[name] += contenders[name]()
    return seconds


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return the median and the middle half of the values.

    >>> spread([1.0, 2.0, 3.0, 4.0, 5.0])
    {'median': 3.0, 'low': 2.0, 'high': 4.0, 'num': 5}
    """
    ordered = sorted(values)
    low, high = ordered[len(ordered) // 4], ordered[-1 - len(ordered) // 4]
    return {"median": statistics.median(ordered), "low": low, "high": high, "num": len(ordered)}


def machine() -> dict[str, object]:
    """Return the hardware and the versions of a measurement."""
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


def write_json(path: Path | None, content: Mapping[str, object]) -> None:
    """Write the figures and the machine. guard.py reads `ratios`, which are better if larger."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({**content, "machine": machine()}, indent=2) + "\n", encoding="utf-8")
