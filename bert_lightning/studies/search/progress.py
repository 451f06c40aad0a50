"""The runs of a search and their states. New runs are added while the search continues."""

import signal
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from bert_lightning.checks import nearest
from bert_lightning.errors import InputError
from bert_lightning.runs.directory import RunDirectory
from bert_lightning.studies.estimates import newest_step
from bert_lightning.studies.plan import PlannedRun
from bert_lightning.studies.processes import signal_run
from bert_lightning.studies.progress import TO_DO, Progress
from bert_lightning.studies.record import RecordedRun, StudyRecord
from bert_lightning.studies.search.trial import Reached

# A run that one trial stopped early may be needed by another trial with the same values.
_TO_DO = (*TO_DO, "pruned")


class Course(Protocol):
    """A rule that decides which runs train."""

    def step(self) -> Sequence[PlannedRun]:
        """Read the progress of the runs, and return the runs that should train now."""


class SearchProgress(Progress):
    """The runs of all arms of a search.

    Args:
        folder: the folder of the study.
        before: the last record; None if there is none.
        metric: the metric that decides.
        retry_fresh: whether runs with fresh seeds that failed in an earlier session train again. Runs of trials do
            not, because the draws of later trials depend on the failure.
    """

    def __init__(self, folder: Path, before: StudyRecord | None, metric: str, retry_fresh: bool = False) -> None:
        super().__init__(folder, [], before)
        self._before, self._metric, self._retry_fresh = before, metric, retry_fresh
        self.courses: Sequence[Course] = ()
        # Trials with the same values share run directories. Only the first run of each directory trains.
        self._first: dict[str, PlannedRun] = {}
        self._trials: dict[PlannedRun, int | None] = {}
        # The directories of the runs that should train now.
        self._wanted: set[str] = set()
        # Directory -> step of its newest checkpoint when it was interrupted.
        self._interrupted: dict[str, int] = {}

    def add(self, runs: Sequence[PlannedRun], trial: int | None) -> None:
        """Add the runs of a trial, and the upstream runs that they start from.

        Args:
            runs: the runs.
            trial: its number; None for the best trial with fresh seeds.
        """
        for run in runs:
            # Read the states of earlier sessions, including failures.
            fresh = Progress(self.folder, [*_chain(run), run], self._before)
            if self._retry_fresh and trial is None:
                fresh.retry_failed()
            self.directories |= fresh.directories
            for each, recorded in fresh.runs.items():
                if each not in self.runs:
                    self.runs[each] = recorded
                    self._trials[each] = trial if each is run else None
                    self._first.setdefault(recorded.directory, each)
        self._share()

    def startable(self) -> list[PlannedRun]:
        """Advance the search, stop runs that it no longer needs, and return the runs that can train now."""
        wanted = [each for course in self.courses for run in course.step() for each in [*_chain(run), run]]
        chosen = dict.fromkeys(self._first[self.runs[run].directory] for run in wanted)
        self._wanted = {self.runs[run].directory for run in chosen}
        for recorded in self.runs.values():
            if recorded.state == "running" and recorded.directory not in self._wanted:
                # The signal is repeated at each call, because a process that has just started may miss it.
                signal_run(self.folder / recorded.directory, signal.SIGUSR1)
        return [
            run
            for run in chosen
            if self.runs[run].state in _TO_DO
            and all(self.runs[each].state == "finished" for each in run.upstreams.values())
        ]

    def recorded(self) -> list[RecordedRun]:
        """Return the entries of the runs, without runs that were never needed because their trial had ended."""
        return [
            replace(recorded, trial=self._trials[run])
            for run, recorded in self.runs.items()
            if recorded.state != "waiting" or recorded.directory in self._wanted
        ]

    def directory(self, run: PlannedRun) -> str:
        """Return the directory of a run, relative to the folder of the study."""
        return self.runs[run].directory

    def reached(self, run: PlannedRun) -> Reached:
        """Return the progress of a run.

        Raises:
            InputError: it has finished, and did not log the metric of the search.
        """
        recorded = self.runs[run]
        rows = RunDirectory(self.folder / recorded.directory).read_metrics()
        # If a step has several rows, such as at the end of training, they have the same value.
        curve = {row["step"]: row[self._metric] for row in rows if self._metric in row and "checkpoint" not in row}
        if recorded.state == "finished" and not curve:
            names = sorted({name for row in rows for name in row if name.startswith("val/")})
            raise InputError(
                f"{self.folder / recorded.directory} has finished without search.metric {self._metric!r}"
                f"{nearest(self._metric, names)}"
            )
        score = list(curve.values())[-1] if recorded.state == "finished" else None
        state, message = recorded.state, recorded.message
        return Reached("failed" if state == "blocked" else state, list(curve.items()), score, message)

    def settled(self, run: PlannedRun, recorded: RecordedRun) -> RecordedRun:
        """Return the entry of a run whose process has ended: `pruned` if the search no longer needs the run."""
        directory = recorded.directory
        if recorded.state != "interrupted":
            return recorded
        if directory not in self._wanted:
            return replace(recorded, state="pruned", message=None)
        # It resumes at once, unless it was interrupted before at the same step.
        step = newest_step(self.folder / directory)
        if self._interrupted.get(directory) == step:
            return replace(recorded, state="failed", message=f"{recorded.message}, twice at step {step}")
        self._interrupted[directory] = step
        return recorded

    def block(self) -> None:
        """Give runs that share a directory the same state, and block those whose upstream run failed."""
        self._share()
        super().block()

    def _share(self) -> None:
        for run, recorded in self.runs.items():
            first = self.runs[self._first[recorded.directory]]
            if first is not recorded:
                names = ("state", "status", "message", "seconds", "attempts")
                self.runs[run] = replace(recorded, **{name: getattr(first, name) for name in names})


def _chain(run: PlannedRun) -> Iterator[PlannedRun]:
    """Yield the upstream runs of a run, each after its own upstream runs."""
    for upstream in run.upstreams.values():
        yield from _chain(upstream)
        yield upstream
