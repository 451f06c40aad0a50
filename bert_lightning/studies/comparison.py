"""Comparison of several runs: group those that differ only in their seed, and summarise their scores."""

import json
import statistics
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from bert_lightning.config.saved import with_defaults
from bert_lightning.errors import InputError
from bert_lightning.runs.directory import RunDirectory
from bert_lightning.training.metric_rows import damaged_line

# Runs that differ only in these keys form one group. Of these keys, only the seed changes the scores.
_IRRELEVANT = ("seed_everything", "wandb", "experiment", "published")


@dataclass(frozen=True)
class Run:
    """One run, as it is read for a comparison.

    Attributes:
        directory: its run directory.
        config: its configuration, with defaults.
        manifest: content of `manifest.json`.
        rows: rows of `metrics.jsonl`, at least one.
    """

    directory: RunDirectory
    config: dict[str, Any]
    manifest: dict[str, Any]
    rows: list[dict[str, Any]]

    @property
    def name(self) -> str:
        """Path of the run directory, as the user wrote it."""
        return str(self.directory.path)

    @property
    def seed(self) -> int:
        return self.config.get("seed_everything", 0)

    @property
    def task(self) -> str:
        return str(self.config.get("task", ""))

    def scores(self) -> dict[str, float]:
        """Return the last value of each `val/` metric of training and each `test/` metric on the run's test data."""
        return {name: row[name] for name, row in self._last_rows.items()}

    @cached_property
    def _last_rows(self) -> dict[str, dict[str, Any]]:
        """The last row of each score."""
        return {
            name: row
            for prefix in ("val/", "test/")
            for row in self._scored_rows(prefix)
            for name in row
            if name.startswith(prefix)
        }

    def scored_checkpoints(self, metric: str) -> frozenset[str]:
        """Return the names of the checkpoint that was scored with a metric: `last`, `best`, both, or e.g. `step 40`.

        Args:
            metric: a name from `scores`.
        """
        row = self._last_rows[metric]
        names = set()
        if "checkpoint" not in row or row["step"] == self.manifest.get("step"):
            names.add("last")
        best = self.directory.checkpoints / "best.ckpt"
        if "checkpoint" in row and best.is_symlink() and best.readlink().name == row["checkpoint"]:
            names.add("best")
        return frozenset(names or {f"step {row['step']}"})

    def _scored_rows(self, prefix: str) -> list[dict[str, Any]]:
        """Return the rows of validations in training (`val/`), or of `test` on the run's own test data (`test/`)."""
        if prefix == "val/":
            return [row for row in self.rows if "checkpoint" not in row]
        test_data = self.config.get("data", {}).get("test")
        return [row for row in self.rows if "checkpoint" in row and row.get("data") == test_data]

    def series(self, metric: str) -> tuple[list[int], list[float]]:
        """Return the steps and the values of a metric that was logged in training."""
        points = [(row["step"], row[metric]) for row in self.rows if metric in row and "checkpoint" not in row]
        return [step for step, _ in points], [value for _, value in points]

    def metrics(self, prefix: str) -> list[str]:
        """Return the names of the metrics with a prefix, in order of appearance."""
        return list(dict.fromkeys(name for row in self.rows for name in row if name.startswith(prefix)))


@dataclass(frozen=True)
class Group:
    """Runs that differ only in their seed.

    Attributes:
        label: the keys in which the group differs from other groups of its task, with their values.
        task: name of the task.
        runs: the runs.
        values: the same keys -> values; empty for the only group of a task.
    """

    label: str
    task: str
    runs: list[Run]
    values: Mapping[str, object] = field(default_factory=dict)

    def summary(self) -> dict[str, "Summary"]:
        """Return the summary of each score over the seeds."""
        scores = [run.scores() for run in self.runs]
        names = dict.fromkeys(name for score in scores for name in score)
        return {name: Summary.of([score[name] for score in scores if name in score]) for name in names}


@dataclass(frozen=True)
class Summary:
    """Summary of one score over seeds.

    Attributes:
        mean: arithmetic mean.
        deviation: standard deviation, with denominator n - 1; None for a single run.
        num: number of runs, n.
        minimum: smallest value.
        maximum: largest value.
        median: middle value.
    """

    mean: float
    deviation: float | None
    num: int
    minimum: float
    maximum: float
    median: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Summary":
        """Summarise one or more values.

        >>> str(Summary.of([0.5, 0.7]))
        '0.6000 ± 0.1414'
        """
        deviation = statistics.stdev(values) if len(values) > 1 else None
        return cls(
            statistics.fmean(values),
            deviation,
            len(values),
            min(values),
            max(values),
            statistics.median(values),
        )

    def __str__(self) -> str:
        return f"{self.mean:.4f}" + (f" ± {self.deviation:.4f}" if self.deviation is not None else "")


def read_run(path: Path) -> Run:
    """Read a run directory.

    Raises:
        InputError: the path is not a run directory, or its metrics are empty or damaged.
    """
    directory = RunDirectory(path)
    config = directory.read_config()
    # If this version cannot read the configuration, it is compared as it was saved, without defaults.
    with suppress(InputError):
        config = with_defaults(config, directory.config)
    rows = directory.read_metrics()
    if not rows:
        raise InputError(f"{path}: {directory.metrics.name} is still empty")
    damaged = damaged_line(directory.metrics)
    if damaged is not None:
        raise InputError(f"{directory.metrics}: line {damaged} is damaged")
    for number, row in enumerate(rows, 1):
        numbers = [row.get("step"), *(value for name, value in row.items() if "/" in name)]
        if not all(isinstance(value, int | float) for value in numbers):
            raise InputError(f"{directory.metrics}: row {number} is damaged: {row}")
    return Run(directory, config, directory.read_manifest(), rows)


def without_seed(config: Mapping[str, object]) -> dict[str, object]:
    """Return the dotted keys and values of a configuration, without those in which runs of one group may differ."""
    return flattened({key: value for key, value in config.items() if key not in _IRRELEVANT})


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Group runs that differ only in their seed.

    The label of a group has the keys in which it differs from other groups of its task. Groups are in the order of
    their first runs.
    """
    flat = {id(run): without_seed(run.config) for run in runs}
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(json.dumps(flat[id(run)], sort_keys=True, default=str), []).append(run)
    result: list[Group] = []
    for members in groups.values():
        task = members[0].task
        same_task = [flat[id(other[0])] for other in groups.values() if other[0].task == task]
        values = flat[id(members[0])]
        differing = {key: values[key] for key in values if any(other.get(key) != values[key] for other in same_task)}
        label = label_of(differing) or members[0].config.get("experiment", task)
        result.append(Group(label, task, members, differing))
    return result


def label_of(values: Mapping[str, object]) -> str:
    """Join keys and values into one label.

    >>> label_of({"optimizer.name": "adamw", "data.batch_size": 32})
    'optimizer.name=adamw, data.batch_size=32'
    """
    return ", ".join(f"{key}={value}" for key, value in values.items())


def flattened(values: Mapping[str, object], path: str = "") -> dict[str, object]:
    """Return nested keys as dotted ones. Lists stay as they are.

    >>> flattened({"data": {"batch_size": 32, "masking": {"rate": 0.15}}})
    {'data.batch_size': 32, 'data.masking.rate': 0.15}
    """
    flat: dict[str, object] = {}
    for key, value in values.items():
        full = f"{path}.{key}" if path else key
        if isinstance(value, dict):
            flat.update(flattened(value, full))
        else:
            flat[full] = value
    return flat
