"""Several runs side by side: which differ only in their seed, by what the others differ, and their scores."""

import json
import statistics
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bert_lightning.config.saved import with_defaults
from bert_lightning.errors import InputError
from bert_lightning.runs.directory import RunDirectory

# Where a run wrote and how it was watched changes no number.
_IRRELEVANT = ("seed_everything", "wandb", "experiment", "published")


@dataclass(frozen=True)
class Run:
    """What a report needs of one run."""

    directory: RunDirectory
    config: dict[str, Any]
    manifest: dict[str, Any]
    rows: list[dict[str, Any]]

    @property
    def name(self) -> str:
        """The path as given."""
        return str(self.directory.path)

    @property
    def seed(self) -> int:
        """The seed of everything."""
        return self.config.get("seed_everything", 0)

    def scores(self) -> dict[str, float]:
        """The last value of each `val/` metric of training, and of each `test/` metric on the run's own test data."""
        test_data = self.config.get("data", {}).get("test")
        values: dict[str, float] = {}
        for row in self.rows:
            prefix = "test/" if "checkpoint" in row else "val/"
            if prefix == "val/" or row.get("data") == test_data:
                values.update({k: v for k, v in row.items() if k.startswith(prefix)})
        return values

    def series(self, metric: str) -> tuple[list[int], list[float]]:
        """Steps and values of one metric."""
        points = [(row["step"], row[metric]) for row in self.rows if metric in row and "checkpoint" not in row]
        return [step for step, _ in points], [value for _, value in points]

    def metrics(self, prefix: str) -> list[str]:
        """Names of the metrics with a prefix, in the order in which they appear."""
        return list(dict.fromkeys(name for row in self.rows for name in row if name.startswith(prefix)))


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but the seed."""

    label: str
    task: str
    runs: list[Run]

    def summary(self) -> dict[str, "Summary"]:
        """Each score over the seeds."""
        scores = [run.scores() for run in self.runs]
        names = dict.fromkeys(name for score in scores for name in score)
        return {name: Summary.of([score[name] for score in scores if name in score]) for name in names}


@dataclass(frozen=True)
class Summary:
    """Values of one score over seeds; the deviation is the one with n - 1, None for a single run."""

    mean: float
    deviation: float | None
    num: int
    minimum: float
    maximum: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Summary":
        """Summarise at least one value."""
        deviation = statistics.stdev(values) if len(values) > 1 else None
        return cls(statistics.fmean(values), deviation, len(values), min(values), max(values))

    def __str__(self) -> str:
        return f"{self.mean:.4f}" + (f" ± {self.deviation:.4f}" if self.deviation is not None else "")


def read_run(path: Path) -> Run:
    """Read a run directory.

    Raises:
        InputError: it is none, or it has logged nothing yet.
    """
    directory = RunDirectory(path)
    config = directory.read_config()
    # A configuration that this version cannot read is compared as it was saved.
    with suppress(InputError):
        config = with_defaults(config, directory.config)
    rows = directory.read_metrics()
    if not rows:
        raise InputError(f"{path}: {directory.metrics.name} has no rows yet")
    for number, row in enumerate(rows, 1):
        numbers = [row.get("step"), *(value for name, value in row.items() if "/" in name)]
        if not all(isinstance(value, int | float) for value in numbers):
            raise InputError(f"{directory.metrics}: row {number} is damaged: {row}")
    return Run(directory, config, directory.read_manifest(), rows)


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Runs by everything but the seed, in the order in which they are given; labels name what differs in a task."""
    flat = {id(run): _flatten({k: v for k, v in run.config.items() if k not in _IRRELEVANT}) for run in runs}
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(json.dumps(flat[id(run)], sort_keys=True, default=str), []).append(run)
    result = []
    for members in groups.values():
        task = members[0].config.get("task", "")
        same_task = [flat[id(other[0])] for other in groups.values() if other[0].config.get("task") == task]
        own = flat[id(members[0])]
        differing = [key for key in own if any(other.get(key) != own[key] for other in same_task)]
        label = ", ".join(f"{key}={own[key]}" for key in differing) or members[0].config.get("experiment", task)
        result.append(Group(label, task, members))
    return result


def _flatten(values: dict[str, Any], path: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        full = f"{path}.{key}" if path else key
        if isinstance(value, dict):
            flat.update(_flatten(value, full))
        else:
            flat[full] = value
    return flat


def as_table(groups: Sequence[Group]) -> tuple[list[str], list[list[str]]]:
    """Scores as header and lines: a line a score where there are fewer groups than scores, else a line a group."""
    summaries = [group.summary() for group in groups]
    names = list(dict.fromkeys(name for summary in summaries for name in summary))
    columns = [["", "n", *names]]
    for group, summary in zip(groups, summaries, strict=True):
        columns.append([group.label, str(len(group.runs)), *(str(summary.get(name, "")) for name in names)])
    lines = [list(line) for line in zip(*columns, strict=True)] if len(groups) < len(names) else columns
    return lines[0], lines[1:]
