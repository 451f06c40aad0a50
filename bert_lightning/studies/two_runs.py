"""Differences between two runs: the values that they logged, and the circumstances of their sessions."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from bert_lightning.checkpoints.digests import current_form
from bert_lightning.checkpoints.errors import CheckpointError
from bert_lightning.checkpoints.native import LAST, find_native
from bert_lightning.checkpoints.reading import read_checkpoint
from bert_lightning.errors import InputError
from bert_lightning.runs.directory import RunDirectory
from bert_lightning.runs.record import MODULES
from bert_lightning.tasks.norms_and_rates import is_diagnosis
from bert_lightning.training.throughput import THROUGHPUT_METRICS

# Metrics that differ between equal trainings, because they measure time and memory.
_TIMINGS = {"time", *THROUGHPUT_METRICS}
# A circumstance that earlier versions did not record, and the value that stands for "not recorded".
PATCH = "uncommitted patch"
UNKNOWN = "not recorded"


class MetricDifference(NamedTuple):
    """One metric at one step that differs between two runs."""

    step: int
    metric: str
    before: float | None
    """None if the run did not log it"""
    now: float | None


def logged_values(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[int, str], float]:
    """Return the values of a training, (step, metric) -> value, without timings and scores of later commands."""
    return {
        (row["step"], name): value
        for row in rows
        # Rows with this key come from scoring a checkpoint after training.
        if "checkpoint" not in row
        for name, value in row.items()
        if name != "step" and name not in _TIMINGS
    }


def comparable_values(
    before: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]
) -> tuple[dict[tuple[int, str], float], dict[tuple[int, str], float]]:
    """Return the values of two trainings, as `logged_values` does, without norms and rates that only one of them has.

    Earlier versions did not log all norms and rates.
    """
    values = logged_values(before), logged_values(now)
    logged = [{metric for _, metric in each} for each in values]

    def counts(metric: str) -> bool:
        return not is_diagnosis(metric) or all(metric in metrics for metrics in logged)

    old, new = ({key: value for key, value in each.items() if counts(key[1])} for each in values)
    return old, new


def metric_differences(
    before: Mapping[tuple[int, str], float], now: Mapping[tuple[int, str], float]
) -> list[MetricDifference]:
    """Return the values that are not bitwise equal, sorted by step. The arguments come from `logged_values`."""
    return [
        MetricDifference(*key, before.get(key), now.get(key))
        for key in sorted({*before, *now})
        if not _same(before.get(key), now.get(key))
    ]


def first_difference(
    before: Mapping[tuple[int, str], float], now: Mapping[tuple[int, str], float]
) -> tuple[int, list[MetricDifference]]:
    """Find the first step at which two runs logged different values. Values are compared bit for bit.

    Values that only one run has are ignored, because the other may have logged at other steps, or ended earlier.

    Returns:
        The number of equal values before that step (of all values if none differs), and the differences at that step.
    """
    common = before.keys() & now.keys()
    differing = metric_differences({key: before[key] for key in common}, {key: now[key] for key in common})
    if not differing:
        return len(common), []
    step = differing[0].step
    return sum(key[0] < step for key in common), [each for each in differing if each.step == step]


def equal_weights(before: RunDirectory, now: RunDirectory) -> bool | None:
    """Return whether the final weights of two runs are equal, bit for bit.

    None if their digests are not recorded, or if they differ and the weights cannot be read.
    """
    recorded = [run.read_manifest().get("weights") for run in (before, now)]
    if None in recorded:
        return None
    if recorded[0] == recorded[1]:
        return True
    checkpoint = find_native(now.path, (LAST,))
    if checkpoint is None:
        return False
    # An earlier version may have recorded a digest in another form.
    try:
        tensors = read_checkpoint(checkpoint).tensors
    except (CheckpointError, InputError, OSError):
        return None
    return current_form(str(recorded[0]), tensors) == current_form(str(recorded[1]), tensors)


def _same(before: float | None, now: float | None) -> bool:
    if before is None or now is None:
        return before is now
    return before == now or (math.isnan(before) and math.isnan(now))


def changed_circumstances(sessions: Sequence[Mapping[str, Any]]) -> list[tuple[str, object, object]]:
    """Return the circumstances that changed between a session and the next: (name, value before, value after).

    Circumstances are versions, hardware, settings that may change on resume, the user's modules, commit and patch.
    """
    return [
        (name, first.get(name), last.get(name))
        for first, last in pairwise(map(circumstances_of, sessions))
        for name in sorted({*first, *last})
        if first.get(name) != last.get(name) and UNKNOWN not in (first.get(name), last.get(name))
    ]


def circumstances_of(session: Mapping[str, Any]) -> dict[str, object]:
    """Return the circumstances of a session, name -> value. Its command is not one of them."""
    values = {f"version of {name}": version for name, version in session.get("versions", {}).items()}
    values |= session.get("hardware", {}) | session.get("settings", {})
    values |= {f"module {name}": module["sha256"] for name, module in session.get(MODULES, {}).items()}
    git = session.get("git") or {}
    # Outside a repository there is no patch, and without changes there was none in earlier versions either.
    patch = git.get("patch", UNKNOWN if git.get("modified") else None)
    return values | {"commit": git.get("commit"), "modified files": git.get("modified"), PATCH: patch}
