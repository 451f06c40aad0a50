"""The speed of training, and its time by section: waiting for data, forward and backward pass, optimiser."""

import re
import resource
import sys
import time
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

# The sections of a step.
SECTIONS = ("data", "forward_backward", "optimizer")
THROUGHPUT_METRICS = (
    "train/interval_seconds",
    "train/tokens_per_second",
    "train/sequences_per_second",
    "train/mfu",
    "train/peak_memory_gb",
    *(f"train/{section}_share" for section in SECTIONS),
)
"""the metrics of speed, the only ones that differ when a run is repeated"""

# Vendor peaks of dense bfloat16 in FLOP/s, by an expression for words of the device's name. The first
# match counts.
_VENDOR_PEAKS = (
    ("GB200", 2500e12),
    ("B200", 2250e12),
    ("GH200", 989e12),
    ("H200", 989e12),
    ("H100 NVL", 835e12),
    ("H100 PCIe", 756e12),
    ("H100", 989e12),
    ("A100X?", 312e12),
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


class _PeakMeasurement(NamedTuple):
    operations: float
    """FLOP/s"""
    seconds: float
    """duration of the last measurement"""


# Device, type and widths -> the highest peak that this process measured.
_measured: dict[tuple[torch.device, torch.dtype, int, int], _PeakMeasurement] = {}


class StepClock:
    """A clock that adds up the seconds of each section of the steps.

    A GPU computes asynchronously: its host is already at a later point. The sections are therefore timed on the GPU.
    """

    def __init__(self) -> None:
        self._waited = 0.0
        self._waiting_since: float | None = None
        self._marks: list[Any] = []
        self._computed = dict.fromkeys(SECTIONS[1:], 0.0)
        self._on_cuda = False

    def begin_step(self, device: torch.device) -> None:
        """Mark the arrival of the data."""
        self._on_cuda = device.type == "cuda"
        if self._waiting_since is not None:
            self._waited += time.perf_counter() - self._waiting_since
        self._mark()

    def begin_optimizer(self) -> None:
        """Mark the end of the last backward pass."""
        self._mark()

    def end_step(self) -> None:
        """Mark the end of the update."""
        self._mark()
        if not self._on_cuda:
            self._add_up()

    def begin_waiting(self) -> None:
        """Mark the start of waiting for the next data."""
        self._waiting_since = time.perf_counter()

    def forget_waiting(self) -> None:
        """Do not count the time until the next step as waiting."""
        self._waiting_since = None

    def read(self) -> dict[str, float]:
        """Return the seconds of each section since the last call."""
        self._add_up()
        seconds = {"data": self._waited, **self._computed}
        self._waited, self._computed = 0.0, dict.fromkeys(SECTIONS[1:], 0.0)
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
            for section, begin, end in zip(SECTIONS[1:], marks, marks[1:], strict=False):
                self._computed[section] += begin.elapsed_time(end) / 1e3 if self._on_cuda else end - begin
        self._marks = []


def peak_operations(device: torch.device, precision: torch.dtype, hidden: int, inner: int, seconds: float) -> float:
    """Return the highest FLOP/s of a device in matrix products of a type.

    For a GPU in `_VENDOR_PEAKS` it is the vendor's peak of dense bfloat16. For any other device, and in float32, it
    is measured: the fastest product with the widths of the model counts. Other programs may slow down the first
    measurement. So later calls measure again, if that takes less than a hundredth of `seconds`, and the highest value
    that this process measured counts.

    Args:
        device: the device of the products.
        precision: their type.
        hidden: the width of the model.
        inner: the width of its feed-forward layers.
        seconds: the time since the last call.
    """
    if device.type == "cuda" and precision != torch.float32:
        name = torch.cuda.get_device_name(device)
        for words, peak in _VENDOR_PEAKS:
            # A laptop's GPU has the name of a faster one.
            if re.search(rf"\b{words}\b(?!.*\b(Laptop|Max-Q)\b)", name):
                return peak
    key = (device, precision, hidden, inner)
    before = _measured.get(key)
    if before is not None and seconds < 100 * before.seconds:
        return before.operations
    started = time.perf_counter()
    operations = best_product([(1024, hidden, inner), (1024, inner, hidden)], precision, device)
    if before is not None:
        operations = max(operations, before.operations)
    _measured[key] = _PeakMeasurement(operations, time.perf_counter() - started)
    return operations


def best_product(
    shapes: list[tuple[int, int, int]], precision: torch.dtype, device: torch.device, repeats: int = 3
) -> float:
    """Return the FLOP/s of the fastest of the products (m, k) @ (k, n); `shapes` are (m, k, n).

    The factors are random, because a GPU multiplies constants faster: fewer bits change.
    """
    best = 0.0
    # A separate generator, so that the random numbers of training stay the same.
    generator = torch.Generator(device)
    for rows, inner, columns in shapes:
        left = torch.randn(rows, inner, device=device, dtype=precision, generator=generator)
        right = torch.randn(columns, inner, device=device, dtype=precision, generator=generator)
        operations = 2.0 * rows * inner * columns
        # A few milliseconds per measurement, so that the clock's resolution and the launch do not matter.
        num_products = max(1, round((2e11 if device.type == "cuda" else 1e9) / operations))
        for _ in range(repeats + 1):
            _wait_for(device)
            started = time.perf_counter()
            for _ in range(num_products):
                F.linear(left, right)
            _wait_for(device)
            best = max(best, operations * num_products / (time.perf_counter() - started))
    return best


def peak_memory(device: torch.device) -> float:
    """Return the largest number of bytes that tensors used on a GPU, or that the process used."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    # ru_maxrss is in kilobytes, but on macOS in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1.0 if sys.platform == "darwin" else 1024.0)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
