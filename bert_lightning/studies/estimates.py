"""How long the rest of a study takes, estimated from its finished runs."""

import re
import statistics
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from bert_lightning.checkpoints.provenance import METRICS
from bert_lightning.errors import InputError
from bert_lightning.runs.directory import RunDirectory
from bert_lightning.studies.plan import PlannedRun
from bert_lightning.studies.record import UNFINISHED, RecordedRun
from bert_lightning.training.metric_rows import read_last

_CHECKPOINT = re.compile(r"step-(\d+)")
# A row of metrics has at most this many bytes.
_TAIL = 1 << 14


class Estimates:
    """Seconds per step of the finished runs of a study, by stage and arm.

    Args:
        folder: the folder of the study.
        runs: run of the plan -> its present state.
    """

    def __init__(self, folder: Path, runs: Mapping[PlannedRun, RecordedRun]) -> None:
        self._folder = folder
        self._rates: dict[tuple[str, ...], list[float]] = defaultdict(list)
        self._steps: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for run, recorded in runs.items():
            step = _last_step(folder / recorded.directory) if recorded.state == "finished" else None
            if step and recorded.seconds:
                for key in _keys(run):
                    self._rates[key].append(recorded.seconds / step)
                    self._steps[key].append(step)

    def all_seconds_left(self, runs: Mapping[PlannedRun, RecordedRun]) -> tuple[float, int]:
        """Return the seconds that the unfinished runs take one after the other, and how many have no estimate."""
        left = [self.seconds_left(*each) for each in runs.items() if each[1].state in UNFINISHED]
        known = [seconds for seconds in left if seconds is not None]
        return sum(known), len(left) - len(known)

    def seconds_left(self, run: PlannedRun, recorded: RecordedRun) -> float | None:
        """Return the seconds that a run still takes; None if no run of its stage has finished."""
        key = next((key for key in _keys(run) if key in self._rates), None)
        if key is None:
            return None
        steps = run.experiment.trainer.max_steps or statistics.median(self._steps[key])
        done = newest_step(self._folder / recorded.directory) if recorded.state != "waiting" else 0
        return max(0.0, steps - done) * statistics.median(self._rates[key])


def _last_step(directory: Path) -> int | None:
    """Return the step at which a run ended; None if it is not recorded. A damaged manifest must not end a study."""
    with suppress(InputError):
        return RunDirectory(directory).read_manifest().get("step")
    return None


def newest_step(directory: Path) -> int:
    """Return the step of the newest checkpoint of a run, by its file name; 0 if there is none."""
    names = (_CHECKPOINT.match(path.name) for path in (directory / "checkpoints").glob("step-*"))
    return max((int(found[1]) for found in names if found), default=0)


def logged_step(directory: Path) -> int:
    """Return the step of the last row of a run's metrics; 0 if there is none."""
    steps = [row["step"] for row in read_last(directory / METRICS, _TAIL) if isinstance(row.get("step"), int)]
    return steps[-1] if steps else 0


def _keys(run: PlannedRun) -> tuple[tuple[str, ...], ...]:
    """Return the groups whose speed estimates that of a run, in order: its arm, then its whole stage."""
    return (run.stage, run.arm.name), (run.stage,)
