"""The state of one trial and its next runs, from the progress of its runs."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bert_lightning.studies.record import State
from bert_lightning.studies.search.pruning import Judge
from bert_lightning.studies.search.settings import SearchSettings

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial


@dataclass(frozen=True)
class Reached:
    """Progress of a run of a trial.

    Attributes:
        state: its state.
        curve: (step, value) of the metric of the search so far.
        score: the last value of that metric; None unless the run has finished.
        message: why it failed; None if it did not.
    """

    state: State
    curve: Sequence[tuple[int, float]] = ()
    score: float | None = None
    message: str | None = None


@dataclass(frozen=True)
class Advice:
    """The next runs of a trial, or its outcome.

    Attributes:
        train: indices of the runs that should train now.
        ended: whether the trial has ended. Then its runs should stop.
        outcome: its score, the reason of its failure, or None if it was stopped early; None before the end, too.
    """

    train: tuple[int, ...] = ()
    ended: bool = False
    outcome: float | str | None = None


class Trial:
    """One trial of a search, with one run per seed.

    A pruner over steps watches the first seed, and the other seeds train only if it is not stopped. A pruner over
    seeds lets the seeds train one by one.

    Args:
        settings: the search.
        name: name of the search.
        before: the earlier trials.
    """

    def __init__(self, settings: SearchSettings, name: str, before: "Sequence[FrozenTrial]") -> None:
        self.number = len(before)
        self._settings = settings
        self._judge = Judge(settings, name, before) if settings.pruner.over is not None else None

    def advance(self, runs: Sequence[Reached]) -> Advice:
        """Return which runs should train now, or how the trial ended.

        Args:
            runs: the progress of each run, in the order of the seeds.
        """
        if self._judge is not None and self._is_pruned(self._judge, runs):
            return Advice(ended=True)
        for seed, run in zip(self._settings.trial_seeds, runs, strict=True):
            if run.state == "failed":
                return Advice(ended=True, outcome=f"seed {seed}: {run.message or 'failed'}")
            if run.state == "finished" and not (run.score is not None and math.isfinite(run.score)):
                return Advice(ended=True, outcome=f"seed {seed}: {self._settings.metric} is {run.score}")
        waiting = [number for number, run in enumerate(runs) if run.state != "finished"]
        if not waiting:
            return Advice(ended=True, outcome=statistics.fmean(_scores(runs)))
        one_at_a_time = self._settings.pruner.over == "seeds" or (self._settings.pruner.over and waiting[0] == 0)
        return Advice(train=tuple(waiting[:1] if one_at_a_time else waiting))

    @property
    def heard(self) -> "FrozenTrial | None":
        """The trial with the scores that the pruner has received; None without a pruner."""
        return self._judge.heard if self._judge is not None else None

    def _is_pruned(self, judge: Judge, runs: Sequence[Reached]) -> bool:
        if self._settings.pruner.over == "steps":
            return judge.hear(runs[0].curve)
        done = list(enumerate(_scores(runs)))
        # After the last seed there is nothing left to save.
        return judge.hear(done[: len(runs) - 1]) or (len(done) == len(runs) and judge.note(done))


def _scores(runs: Sequence[Reached]) -> list[float]:
    """Return the scores of the runs up to the first one that has not finished with a finite score."""
    scores: list[float] = []
    for run in runs:
        if run.state != "finished" or run.score is None or not math.isfinite(run.score):
            break
        scores.append(run.score)
    return scores
