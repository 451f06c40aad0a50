"""The states of all runs of a study together: which can start, which are blocked, and which are stale."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bert_lightning.errors import InputError
from bert_lightning.runs.directory import RunDirectory
from bert_lightning.runs.finished_checkpoints import reduce_finished
from bert_lightning.studies.plan import PlannedRun
from bert_lightning.studies.record import OTHER_SETTINGS, STALE, RecordedRun, State, StudyRecord
from bert_lightning.studies.states import Directories, current, has_other_start

# The states of runs that can start as soon as their upstream runs have finished.
TO_DO: tuple[State, ...] = ("waiting", "interrupted", "running")
# A run whose upstream run is in one of these states cannot start.
_BLOCKING: tuple[State, ...] = ("failed", "blocked")


class Progress:
    """The runs of a study and their states, from their directories and the last record.

    Args:
        folder: the folder of the study.
        plan: all runs.
        before: the last record; None if there is none.

    Attributes:
        directories: the directories of the runs.
        runs: run -> its present entry for the record.
        stages: names of the stages that train now; None for all.
    """

    def __init__(self, folder: Path, plan: Sequence[PlannedRun], before: StudyRecord | None) -> None:
        self.folder = folder
        self.stages: Sequence[str] | None = None
        self.directories = Directories(folder, plan)
        # Runs that were stopped from outside, or killed because memory was short, start again with the next command.
        self._stopped: set[PlannedRun] = set()
        known = {run.directory: run for run in (before.runs if before is not None else ())}
        self.runs: dict[PlannedRun, RecordedRun] = {}
        for run in plan:
            directory = self.directories[run]
            self.runs[run] = current(run, folder, directory, known.get(directory))
        for run, recorded in list(self.runs.items()):
            # A directory in the last record was compared when it was added. One that did not count is compared again.
            last = known.get(recorded.directory)
            was_unusable = last is not None and last.message in (OTHER_SETTINGS, STALE)
            if self._stays_stale(run, last):
                self.runs[run] = replace(recorded, state="failed", message=STALE)
                continue
            if was_unusable:
                self.runs[run] = recorded = current(run, folder, recorded.directory, None)
            if (last is None or was_unusable) and self.directories.is_other_run(run):
                self.runs[run] = replace(recorded, state="failed", message=OTHER_SETTINGS)
            elif self._is_stale(run):
                self.runs[run] = replace(recorded, state="failed", message=STALE)
        self._seeds = list(dict.fromkeys(run.seed for run in plan))
        self.block()

    @property
    def chosen(self) -> dict[PlannedRun, RecordedRun]:
        """The runs of the stages that train now, with their entries."""
        return {run: each for run, each in self.runs.items() if self.stages is None or run.stage in self.stages}

    def recorded(self) -> list[RecordedRun]:
        """Return the entries of the runs for the record of the study."""
        return list(self.runs.values())

    def startable(self) -> list[PlannedRun]:
        """Return the runs that are not finished, and whose upstream runs are.

        They are in the order of their seeds. So a study that ends early has complete seeds, which compare its arms.
        """
        ready = [
            run
            for run, recorded in self.chosen.items()
            if recorded.state in TO_DO
            and run not in self._stopped
            and all(self.runs[each].state == "finished" for each in run.upstreams.values())
        ]
        return sorted(ready, key=lambda run: self._seeds.index(run.seed))

    def settled(self, run: PlannedRun, recorded: RecordedRun) -> RecordedRun:
        """Return the entry of a run after its process has ended. A subclass may change its state."""
        if recorded.state == "interrupted":
            self._stopped.add(run)
        return recorded

    def block(self) -> None:
        """Set waiting and interrupted runs to `blocked` if an upstream run failed or is blocked.

        Blocked runs whose upstream runs are neither get `waiting` again.
        """
        for run, recorded in self.runs.items():
            states = [self.runs[each].state for each in run.upstreams.values()]
            blocker = next((each for each in run.upstreams.values() if self.runs[each].state in _BLOCKING), None)
            if recorded.state in ("waiting", "interrupted") and blocker is not None:
                self.runs[run] = replace(recorded, state="blocked", message=f"{blocker.name} did not finish")
            elif recorded.state == "blocked" and not set(states) & set(_BLOCKING):
                self.runs[run] = replace(recorded, state="waiting", message=None)

    def retry_failed(self) -> None:
        """Let failed runs train again, from their last checkpoint.

        Stale runs, failed runs that started from other weights than their upstream runs have now or will have, and
        runs whose directory holds other settings start over: their old directory is renamed.
        """
        anew: set[PlannedRun] = set()
        for run, recorded in self.chosen.items():
            if recorded.state != "failed":
                continue
            is_unusable = recorded.message in (STALE, OTHER_SETTINGS) or self._has_other_start(run)
            if is_unusable or not anew.isdisjoint(run.upstreams.values()):
                _set_aside(self.folder / recorded.directory)
                self.directories.start_over(run)
                recorded = run.recorded()
                anew.add(run)
            self.runs[run] = replace(recorded, state="waiting")
        self.block()

    def reduce_finished(self) -> None:
        """Reduce the checkpoints of finished runs to their weights, if their settings say so now."""
        for run, recorded in self.chosen.items():
            if recorded.state == "finished":
                reduce_finished(run.experiment, RunDirectory(self.folder / recorded.directory))

    def find_stale(self, upstream: PlannedRun) -> None:
        """Mark runs as stale that started from other weights than those of an upstream run that has just finished."""
        for run, recorded in self.runs.items():
            if upstream in run.upstreams.values() and self._is_stale(run):
                self.runs[run] = replace(recorded, state="failed", message=STALE)

    def _stays_stale(self, run: PlannedRun, last: RecordedRun | None) -> bool:
        """Return whether a stale run cannot be compared, because an upstream run has not finished."""
        return (
            last is not None
            and last.message == STALE
            and RunDirectory(self.folder / last.directory).exists
            and any(self.runs[upstream].state != "finished" for upstream in run.upstreams.values())
        )

    def _is_stale(self, run: PlannedRun) -> bool:
        if self.runs[run].state not in ("finished", "interrupted"):
            return False
        return any(self.runs[each].message == STALE for each in run.upstreams.values()) or self._has_other_start(run)

    def _has_other_start(self, run: PlannedRun) -> bool:
        """Return whether a run started from other weights than those of its upstream runs, if these have finished."""
        if not run.upstreams or any(self.runs[each].state != "finished" for each in run.upstreams.values()):
            return False
        try:
            return has_other_start(run, self.directories)
        except InputError:
            # Its manifest is damaged. The run itself fails then.
            return False


def _set_aside(directory: Path) -> None:
    """Rename a run directory, if it is there."""
    if not directory.exists():
        return
    number = 1
    while (aside := directory.with_name(f"{directory.name}-aside-{number}")).exists():
        number += 1
    directory.rename(aside)
