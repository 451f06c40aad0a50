"""The progress of a run at each of its logged rows, in steps, tokens and seconds of training."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bert_lightning.data.pretraining.stages import BatchSizeWarmup, PretrainingStage, resolve_stages
from bert_lightning.studies.comparison import Run

Axis = Literal["steps", "tokens", "seconds"]
AXES: tuple[Axis, ...] = ("steps", "tokens", "seconds")


class Progress:
    """The rows that a run logged in training, and its progress at each.

    Attributes:
        at: axis -> progress at each row, (N,). An axis that cannot be computed from the records is left out.
    """

    def __init__(self, run: Run) -> None:
        # Without the rows of `test`.
        self._rows = [row for row in run.rows if "checkpoint" not in row]
        self._columns: dict[str, NDArray[np.float64]] = {}
        found: dict[Axis, NDArray[np.float64] | None] = {
            "steps": self._column("step"),
            "tokens": self._tokens(_samples_until(run)),
            "seconds": _seconds(run, self._column("time")),
        }
        self.at: dict[Axis, NDArray[np.float64]] = {
            axis: values for axis, values in found.items() if values is not None
        }

    def total(self, axis: Axis) -> float | None:
        """Return the progress at the end of the run; None if the records do not give it."""
        values = self.at.get(axis)
        return float(values.max()) if values is not None and len(values) else None

    def series(self, metric: str, axis: Axis) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the progress and the values of a metric, both (N,), without values that are not finite."""
        if axis not in self.at:
            return np.empty(0), np.empty(0)
        x, y = self.at[axis], self._column(metric)
        known = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
        known = known[np.argsort(x[known], kind="stable")]
        return x[known], y[known]

    def _column(self, name: str) -> NDArray[np.float64]:
        """Return the value in each row, (N,); NaN if a row has none."""
        if name not in self._columns:
            self._columns[name] = np.array([row.get(name, np.nan) for row in self._rows], dtype=np.float64)
        return self._columns[name]

    def _tokens(
        self, samples: Callable[[NDArray[np.float64]], NDArray[np.float64]] | None
    ) -> NDArray[np.float64] | None:
        """Return the tokens read before each row, without padding; None if the records cannot give them.

        Rows of earlier versions lack the seconds that a speed refers to. But tokens per second divided by sequences
        per second is the number of tokens per sequence. Times the number of sequences, this gives the tokens exactly.

        Args:
            samples: function from steps to the number of sequences before them; None if it is not known.
        """
        steps, speed = self._column("step"), self._column("train/tokens_per_second")
        chosen = np.flatnonzero(np.isfinite(speed))
        before = np.concatenate([[0.0], np.maximum.accumulate(steps[chosen])])[:-1]
        rising = steps[chosen] > before
        chosen, before = chosen[rising], before[rising]
        read = speed[chosen] * self._column("train/interval_seconds")[chosen]
        if samples is not None:
            sequences = (samples(steps[chosen]) - samples(before)) / self._column("train/sequences_per_second")[
                chosen
            ]
            read = np.where(np.isfinite(read), read, speed[chosen] * sequences)
        if not len(chosen) or not np.isfinite(read).all():
            return None
        return np.interp(steps, [0.0, *steps[chosen]], [0.0, *np.cumsum(read)])


def _samples_until(run: Run) -> Callable[[NDArray[np.float64]], NDArray[np.float64]] | None:
    """Return a function from steps to the number of sequences before them; None if it is not known.

    It is not known for bins, which hold varying numbers of sequences, and for questions with choices.
    """
    data = run.config.get("data") or {}
    size = data.get("batch_size")
    if not isinstance(size, int) or data.get("batching") == "packed" or run.config.get("task") == "multiple-choice":
        return None
    if not data.get("stages") and not (data.get("batch_size_warmup") or {}).get("start"):
        return lambda steps: steps * size
    try:
        warmup = BatchSizeWarmup(**(data.get("batch_size_warmup") or {}))
        changes = [PretrainingStage(**stage) for stage in data.get("stages") or []]
        stages = resolve_stages(int(data["max_seq_length"]), size, warmup, changes)
    except (KeyError, TypeError, ValueError):
        # The configuration of a version with other keys.
        return None

    firsts, before = np.array([[stage.first_step, stage.samples_before] for stage in stages], dtype=np.float64).T
    sizes = np.array([stage.batch_size for stage in stages])

    def samples(steps: NDArray[np.float64]) -> NDArray[np.float64]:
        stage = np.searchsorted(firsts, steps, side="right") - 1
        return before[stage] + (steps - firsts[stage]) * sizes[stage]

    return samples


def _seconds(run: Run, times: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Return the seconds of training before each row.

    The time between two sessions of an interrupted run does not count, nor does work that a kill lost.
    """
    if not len(times) or not np.isfinite(times).all():
        return None
    starts = sorted(filter(None, (_instant(session) for session in run.manifest.get("sessions") or [])))
    # A manifest has whole seconds, so the first row may seem to be before the start.
    starts = [min(starts[0], times.min()), *starts[1:]] if starts else [times.min()]
    session_of = np.searchsorted(starts, times, side="right") - 1
    seconds, before = np.empty_like(times), 0.0
    for number, start in enumerate(starts):
        chosen = session_of == number
        if chosen.any():
            seconds[chosen] = before + times[chosen] - start
            before = float(seconds[chosen].max())
    return seconds


def _instant(session: Mapping[str, Any]) -> float | None:
    try:
        return datetime.fromisoformat(session["started"]).timestamp()
    except (KeyError, TypeError, ValueError):
        return None
