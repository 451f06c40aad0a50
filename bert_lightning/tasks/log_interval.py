"""The log interval: sums over the steps since training metrics were last logged, and the speed of these steps."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bert_lightning.distributed.collectives import DataRank, gather_shares, sum_over_shares
from bert_lightning.training.throughput import StepClock, peak_memory

log = logging.getLogger(__name__)

# Keys in checkpoints. They say "window", because they are older than the term "log interval".
_SUMS_KEY, _SECONDS_KEY, _NAMES_KEY = "log_window", "log_window_seconds", "log_window_names"


class Work(NamedTuple):
    """The amount of work in some micro-batches."""

    tokens: float
    sequences: float
    operations: float
    """floating-point operations of forward and backward pass"""


class IntervalSums(NamedTuple):
    """Sums over the steps of a log interval."""

    sums: Tensor
    """(K,) the training sums"""
    counts: Tensor
    """(K,) the divisor of each training sum"""
    work: Tensor
    """(3,) the fields of `Work`"""

    def flat(self) -> Tensor:
        """Return all values in one tensor, (2 K + 3,), as checkpoints hold them."""
        return torch.cat(self)

    @classmethod
    def from_flat(cls, values: Tensor) -> "IntervalSums":
        """Undo `flat`."""
        num_work = len(Work._fields)
        num_sums = (len(values) - num_work) // 2
        return cls(*values.split([num_sums, num_sums, num_work]))

    def means(self) -> list[float]:
        """Return (K,) each training sum divided by its count."""
        return [total / (count or 1) for total, count in zip(self.sums.tolist(), self.counts.tolist(), strict=True)]


@dataclass(frozen=True)
class IntervalValues:
    """The values that are logged for a finished log interval.

    Attributes:
        means: (K,) each training sum divided by its count, both over all steps and processes.
        throughput: metrics of speed by name.
    """

    means: list[float]
    throughput: dict[str, float]


class LogInterval:
    """Sums over the steps since metrics were last logged. A checkpoint holds the sums of the open interval.

    Attributes:
        clock: measures the time of each section of a step.
    """

    def __init__(self) -> None:
        self.clock = StepClock()
        self._peak: Callable[[float], float] = lambda seconds: float("inf")
        self._sums: Tensor | None = None
        self._restored: Tensor | None = None
        self._names: list[str] | None = None
        self._seconds_before = 0.0
        self._started = time.perf_counter()
        self._paused: float | None = None

    def start(
        self, share: DataRank, device: torch.device, peak: Callable[[float], float], names: Sequence[str]
    ) -> None:
        """Start the clock, and continue the interval of a resumed run.

        Args:
            share: the share of each batch that this process computes.
            device: the device on which sums are added up.
            peak: returns the FLOP/s that all devices together reach at most, given the seconds since the last call.
            names: (K,) names of the training sums. An interval of other sums is left out, with a warning.
        """
        self._peak = peak
        restored, self._restored = self._restored, None
        before, self._names = self._names, list(names)
        if restored is not None and not _is_of(restored, before, self._names):
            if share.rank == 0:
                log.warning("the checkpoint's open log interval has other losses: the first metrics are without it")
            restored, self._seconds_before = None, 0.0
        self._sums = None if restored is None else _restored_sums(restored, share).to(device)
        # A training that ended during a validation has left the clock stopped.
        self._started, self._paused = time.perf_counter(), None

    def pause(self) -> None:
        """Stop the clock, for validation."""
        self.clock.forget_waiting()
        self._paused = time.perf_counter()

    def resume(self) -> None:
        """Start the clock again."""
        assert self._paused is not None, "the clock runs"
        self._started += time.perf_counter() - self._paused
        self._paused = None

    def add(self, sums: Tensor, counts: Tensor, work: Tensor) -> None:
        """Add one step of this process: (K,) sums, (K,) counts, and (3,) the fields of `Work`."""
        added = IntervalSums(sums, counts, work.to(sums.dtype)).flat()
        self._sums = added if self._sums is None else self._sums + added

    def finish(self, num_shares: int, device: torch.device) -> IntervalValues:
        """Return the values of the interval over all processes, and begin the next one. All processes call it."""
        assert self._sums is not None, "no step was added"
        sums = IntervalSums.from_flat(sum_over_shares(self._sums, num_shares).cpu())
        values = IntervalValues(sums.means(), self._throughput(Work(*sums.work.tolist()), device))
        self._sums, self._seconds_before = None, 0.0
        self._started = time.perf_counter()
        return values

    def open_means(self, num_shares: int) -> list[float] | None:
        """Return the means over the steps of the open interval, over all processes; None if there is no step yet.

        All processes call it.
        """
        if self._sums is None:
            return None
        return IntervalSums.from_flat(sum_over_shares(self._sums, num_shares).cpu()).means()

    def _throughput(self, work: Work, device: torch.device) -> dict[str, float]:
        """Return the speed of all processes, and how this process divides its time among the sections of a step."""
        seconds = self._seconds()
        # The clock has not measured the time before a resume.
        timed = max(time.perf_counter() - self._started, 1e-9)
        shares = {f"train/{section}_share": min(took / timed, 1.0) for section, took in self.clock.read().items()}
        return {
            "train/interval_seconds": seconds,
            "train/tokens_per_second": work.tokens / seconds,
            "train/sequences_per_second": work.sequences / seconds,
            "train/mfu": work.operations / seconds / self._peak(seconds),
            "train/peak_memory_gb": peak_memory(device) / 1e9,
            **shares,
        }

    def _seconds(self) -> float:
        # A checkpoint that is saved after a validation is written while the clock stands.
        now = time.perf_counter() if self._paused is None else self._paused
        return self._seconds_before + now - self._started

    def state(self, num_shares: int) -> dict[str, Tensor | float | list[str] | None]:
        """Return the entries of a checkpoint: the sums of each share, (shares, 2 K + 3). All processes call it."""
        sums = None if self._sums is None else gather_shares(self._sums, num_shares).cpu()
        return {_SUMS_KEY: sums, _SECONDS_KEY: self._seconds(), _NAMES_KEY: self._names}

    def load_state(self, checkpoint: Mapping[str, Any]) -> None:
        """Load the open interval of a checkpoint, which `start` continues. One that holds weights alone has none."""
        self._restored, self._seconds_before = checkpoint.get(_SUMS_KEY), checkpoint.get(_SECONDS_KEY, 0.0)
        self._names = checkpoint.get(_NAMES_KEY)


def _is_of(restored: Tensor, names_before: list[str] | None, names: list[str]) -> bool:
    """Return whether restored sums have these names. Checkpoints of earlier versions hold no names."""
    same_number = restored.shape[-1] == 2 * len(names) + len(Work._fields)
    return same_number and names_before in (None, names)


def _restored_sums(restored: Tensor, share: DataRank) -> Tensor:
    """Return the sums from which one share continues.

    Each share continues from its own sums, so additions have the same order as without a stop. If the number of
    shares has changed, the first one continues from the sums of all, and the others from 0.
    """
    if restored.ndim == 1:
        # Checkpoints of earlier versions hold the sum over all shares.
        restored = restored[None]
    if len(restored) == share.num_shares:
        return restored[share.rank]
    return restored.sum(0) if share.rank == 0 else torch.zeros_like(restored[0])
