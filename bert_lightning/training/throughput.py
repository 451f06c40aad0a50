"""How fast training goes, and where its time is: waiting for data, forward and backward pass, or the optimiser."""

import resource
import sys
import time
from typing import Any

import torch
import torch.nn.functional as F

PHASES = ("data", "forward_backward", "optimizer")
THROUGHPUT_METRICS = (
    "train/tokens_per_second",
    "train/sequences_per_second",
    "train/mfu",
    "train/peak_memory_gb",
    *(f"train/{phase}_share" for phase in PHASES),
)
"""What a run logs of its speed: the only metrics that differ when it is repeated."""

# Dense bfloat16 operations a second that the makers state, by a part of the device's name; the first row that fits.
_STATED_PEAKS = (
    ("B200", 2250e12),
    ("GH200", 989e12),
    ("H200", 989e12),
    ("H100 NVL", 835e12),
    ("H100 PCIe", 756e12),
    ("H100", 989e12),
    ("A100", 312e12),
    ("A800", 312e12),
    ("L40S", 362e12),
    ("L40", 181e12),
    ("L4", 121e12),
    ("A40", 150e12),
    ("A10G", 70e12),
    ("A10", 125e12),
    ("A6000", 155e12),
    ("RTX 5090", 210e12),
    ("RTX 4090", 165e12),
    ("RTX 3090", 71e12),
)


class StepClock:
    """Adds up the seconds of each phase of the steps, on the device where it is one that works ahead of its host."""

    def __init__(self) -> None:
        self._waited = 0.0
        self._waiting_since: float | None = None
        self._marks: list[Any] = []
        self._computed = dict.fromkeys(PHASES[1:], 0.0)
        self._on_cuda = False

    def begin_step(self, device: torch.device) -> None:
        """The data is there."""
        self._on_cuda = device.type == "cuda"
        if self._waiting_since is not None:
            self._waited += time.perf_counter() - self._waiting_since
        self._mark()

    def begin_optimizer(self) -> None:
        """The gradients are there."""
        self._mark()

    def end_step(self) -> None:
        """The weights have moved."""
        self._mark()
        if not self._on_cuda:
            self._add_up()

    def begin_waiting(self) -> None:
        """All callbacks are through."""
        self._waiting_since = time.perf_counter()

    def forget_waiting(self) -> None:
        """What follows is no training."""
        self._waiting_since = None

    def read(self) -> dict[str, float]:
        """Seconds of each phase since the last time."""
        self._add_up()
        seconds = {"data": self._waited, **self._computed}
        self._waited, self._computed = 0.0, dict.fromkeys(PHASES[1:], 0.0)
        return seconds

    def _mark(self) -> None:
        if self._on_cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._marks.append(event)
        else:
            self._marks.append(time.perf_counter())

    def _add_up(self) -> None:
        if self._on_cuda and self._marks:
            self._marks[-1].synchronize()
        for start in range(0, len(self._marks), 3):
            marks = self._marks[start : start + 3]
            for phase, begin, end in zip(PHASES[1:], marks, marks[1:], strict=False):
                self._computed[phase] += begin.elapsed_time(end) / 1e3 if self._on_cuda else end - begin
        self._marks = []


def peak_operations(device: torch.device, precision: torch.dtype, hidden: int, inner: int) -> float:
    """Operations a second that a device reaches at most in products of that type.

    For a GPU of the table what its maker states for dense bfloat16; for any other device, and in float32, the best
    product of a model's own widths, measured for an instant.
    """
    if device.type == "cuda" and precision != torch.float32:
        name = torch.cuda.get_device_name(device)
        for part, peak in _STATED_PEAKS:
            if part in name:
                return peak
    return best_product([(1024, hidden, inner), (1024, inner, hidden)], precision, device)


def best_product(
    shapes: list[tuple[int, int, int]], precision: torch.dtype, device: torch.device, repeats: int = 3
) -> float:
    """Operations a second of the fastest of the products (m, k) @ (k, n)."""
    best = 0.0
    for rows, inner, columns in shapes:
        left = torch.ones(rows, inner, device=device, dtype=precision)
        right = torch.ones(columns, inner, device=device, dtype=precision)
        operations = 2.0 * rows * inner * columns
        # A few milliseconds at a time, so that neither the clock's grain nor a launch counts.
        at_once = max(1, round((2e11 if device.type == "cuda" else 1e9) / operations))
        for _ in range(repeats + 1):
            _wait_for(device)
            began = time.perf_counter()
            for _ in range(at_once):
                F.linear(left, right)
            _wait_for(device)
            best = max(best, operations * at_once / (time.perf_counter() - began))
    return best


def peak_memory(device: torch.device) -> float:
    """Bytes: the most that tensors took on a GPU, or the process on a processor."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    # Kilobytes, but on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1.0 if sys.platform == "darwin" else 1024.0)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
