"""The log interval: sums over the steps since training metrics were last logged, and the speed of these steps."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bert_lightning.distributed.collectives import DataRank, gather_shares, sum_over_shares
from bert_lightning.training.throughput import StepClock, peak_memory

# Their keys in a checkpoint; the names are older than the term.
_SUMS_KEY, _SECONDS_KEY = "log_window", "log_window_seconds"


class Work(NamedTuple):
    """How much some micro-batches hold."""

    tokens: float
    sequences: float
    operations: float
    """floating-point operations of forward and backward pass"""


class IntervalSums(NamedTuple):
    """Sums over the steps of a log interval."""

    sums: Tensor
    """(K,) the training sums"""
    counts: Tensor
    """(K,) what each is divided by"""
    work: Tensor
    """(3,) the fields of `Work`"""

    def flat(self) -> Tensor:
        """Return (2 K + 3,) all of them in order, which is their form in a checkpoint."""
        return torch.cat(self)

    @classmethod
    def from_flat(cls, values: Tensor) -> "IntervalSums":
        """Split what `flat` returned."""
        num_work = len(Work._fields)
        num_sums = (len(values) - num_work) // 2
        return cls(*values.split([num_sums, num_sums, num_work]))

    def means(self) -> list[float]:
        """Return (K,) each training sum divided by its count."""
        return [total / max(count, 1) for total, count in zip(self.sums.tolist(), self.counts.tolist(), strict=True)]


@dataclass(frozen=True)
class IntervalValues:
    """The values that are logged for a finished log interval.

    Attributes:
        means: (K,) the mean of each training sum over its counts, over all processes.
        throughput: metrics of speed by name.
    """

    means: list[float]
    throughput: dict[str, float]


class LogInterval:
    """Adds up the steps since the last logged one. A checkpoint holds the sums of the interval that is open.

    Attributes:
        clock: times the sections of each step.
    """

    def __init__(self) -> None:
        self.clock = StepClock()
        self._peak = float("inf")
        self._sums: Tensor | None = None
        self._restored: Tensor | None = None
        self._seconds_before = 0.0
        self._started = self._paused = time.perf_counter()

    def start(self, share: DataRank, device: torch.device, peak: float) -> None:
        """Start the clock, and continue the interval of a resumed run.

        Args:
            share: the share of each batch that this process computes.
            device: where sums are added up.
            peak: FLOP/s that all devices together reach at most.
        """
        self._peak = peak
        restored, self._restored = self._restored, None
        self._sums = None if restored is None else _own_sums(restored, share).to(device)
        self._started = time.perf_counter()

    def pause(self) -> None:
        """Stop the clock, for validation."""
        self.clock.forget_waiting()
        self._paused = time.perf_counter()

    def resume(self) -> None:
        """Let the clock run again."""
        self._started += time.perf_counter() - self._paused

    def add(self, sums: Tensor, counts: Tensor, work: Work) -> None:
        """Add one step of this process: (K,) sums, (K,) counts."""
        added = IntervalSums(sums, counts, torch.tensor(work, dtype=sums.dtype, device=sums.device)).flat()
        self._sums = added if self._sums is None else self._sums + added

    def finish(self, num_shares: int, device: torch.device) -> IntervalValues:
        """Return the values of the interval over all processes, and begin the next one; called by all processes."""
        assert self._sums is not None, "no step was added"
        sums = IntervalSums.from_flat(sum_over_shares(self._sums, num_shares).cpu())
        values = IntervalValues(sums.means(), self._throughput(Work(*sums.work.tolist()), device))
        self._sums, self._seconds_before = None, 0.0
        self._started = time.perf_counter()
        return values

    def _throughput(self, work: Work, device: torch.device) -> dict[str, float]:
        """Return the speed of all processes; the shares of the sections are those of this process."""
        seconds = self._seconds()
        speed = {
            "train/tokens_per_second": work.tokens / seconds,
            "train/sequences_per_second": work.sequences / seconds,
            "train/mfu": work.operations / seconds / self._peak,
            "train/peak_memory_gb": peak_memory(device) / 1e9,
        }
        # The clock knows nothing of the time before a resume.
        timed = max(time.perf_counter() - self._started, 1e-9)
        return speed | {
            f"train/{section}_share": min(took / timed, 1.0) for section, took in self.clock.read().items()
        }

    def _seconds(self) -> float:
        return self._seconds_before + time.perf_counter() - self._started

    def state(self, num_shares: int) -> dict[str, Tensor | float | None]:
        """Return the entries of a checkpoint: the sums of every share, (shares, 2 K + 3); called by all processes."""
        sums = None if self._sums is None else gather_shares(self._sums, num_shares).cpu()
        return {_SUMS_KEY: sums, _SECONDS_KEY: self._seconds()}

    def load_state(self, checkpoint: Mapping[str, Any]) -> None:
        """Take the open interval of a checkpoint, which `start` continues."""
        self._restored, self._seconds_before = checkpoint[_SUMS_KEY], checkpoint[_SECONDS_KEY]


def _own_sums(restored: Tensor, share: DataRank) -> Tensor:
    """Return the sums with which a share continues.

    Each share continues its own, so that they are added in the same order as without a stop. If the number of shares
    has changed, the first one takes the sums of all.
    """
    if restored.ndim == 1:
        # Checkpoints of earlier versions hold the sum over all shares.
        restored = restored[None]
    if len(restored) == share.num_shares:
        return restored[share.rank]
    return restored.sum(0) if share.rank == 0 else torch.zeros_like(restored[0])
