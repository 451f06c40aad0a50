"""The command `compare`: differences of two runs or arms in settings, circumstances, code, data and results.

Each side of the comparison is a run, or an arm with several seeds. The first side is the baseline, the second ours.
Circumstances are versions, hardware, the commit and everything else that a manifest records about a session.
"""

import difflib
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bert_lightning.config.saved import Difference as KeyDifference
from bert_lightning.config.saved import value_differences
from bert_lightning.runs.status import is_score
from bert_lightning.studies.comparison import Run
from bert_lightning.studies.example_scores import PairedCounts, paired_counts
from bert_lightning.studies.sides import Side
from bert_lightning.studies.statistics import Difference, compare_models, compare_seeds, holm
from bert_lightning.studies.two_runs import (
    PATCH,
    UNKNOWN,
    MetricDifference,
    circumstances_of,
    equal_weights,
    first_difference,
    logged_values,
)

NONE = "none"
_SEED = "seed_everything"


@dataclass(frozen=True)
class Parting:
    """The first step at which the logged metrics of two runs differ.

    Attributes:
        seeds: the seeds of the two runs.
        num_equal: number of values before that step, all bitwise equal.
        differences: the metrics that differ at that step; empty if no metric differs.
        last_steps: the last step of each run.
    """

    seeds: tuple[int, int]
    num_equal: int
    differences: list[MetricDifference]
    last_steps: tuple[int, int]


@dataclass(frozen=True)
class ScoreDifference:
    """One score on both sides.

    Attributes:
        metric: its name.
        baseline: the mean over the seeds of the first side.
        ours: the mean over the seeds of the second side.
        num: number of runs with this score, (baseline, ours).
        test: difference with interval and test; None if there is none.
        reason: why there is no test; empty if there is one.
        p_adjusted: p-value after Holm's correction over all scores that were tested.
    """

    metric: str
    baseline: float
    ours: float
    num: tuple[int, int]
    test: Difference | None
    reason: str = ""
    p_adjusted: float | None = None


@dataclass(frozen=True)
class SideDifferences:
    """All differences between two sides. Pairs of values are in the order (baseline, ours).

    Attributes:
        sides: the two sides.
        configuration: keys with different values; without the seed, unless both sides are single runs.
        circumstances: name -> values on both sides, for versions, hardware and commit that differ.
        data: split -> fingerprints on both sides, if they differ.
        patches: file names of the patches of uncommitted changes on both sides.
        patch_diff: lines of a diff between the two patches; empty if they are equal or a side has several.
        partings: one for each pair of runs with the same seed, or for the two single runs.
        scores: the scores that both sides have.
        only: names of scores that only one side has.
        equal_weights: seeds of a pair of runs -> whether the final weights are equal; None if that is not known.
    """

    sides: tuple[Side, Side]
    configuration: list[KeyDifference]
    circumstances: dict[str, tuple[list[str], list[str]]]
    data: dict[str, tuple[list[str], list[str]]]
    patches: tuple[list[str], list[str]]
    patch_diff: list[str]
    partings: list[Parting]
    scores: list[ScoreDifference]
    only: tuple[list[str], list[str]]
    equal_weights: dict[tuple[int, int], bool | None]

    @property
    def of_runs(self) -> bool:
        """Whether each side is a single run."""
        return all(len(side.runs) == 1 for side in self.sides)


def side_differences(baseline: Side, ours: Side, level: float = 0.95) -> SideDifferences:
    """Compare two sides.

    Args:
        baseline: the first side.
        ours: the second side. Differences of scores are ours minus the baseline.
        level: confidence level of the intervals.
    """
    sides = baseline, ours
    single = all(len(side.runs) == 1 for side in sides)
    pairs = [(baseline.runs[0], ours.runs[0])] if single else _with_equal_seeds(baseline, ours)
    configuration = [
        each
        for each in value_differences(baseline.runs[0].config, ours.runs[0].config)
        if single or each.key != _SEED
    ]
    changed = {each.key for each in configuration}
    circumstances = _differing([_circumstances(side) for side in sides])
    patches = tuple(_values(side).get(PATCH, [NONE]) for side in sides)
    scores, only = _scores(sides, single, level)
    return SideDifferences(
        sides=sides,
        configuration=configuration,
        circumstances={name: values for name, values in circumstances.items() if name not in changed},
        data=_differing([_data(side) for side in sides]),
        patches=(patches[0], patches[1]),
        patch_diff=_patch_diff(sides, patches),
        partings=[_parting(first, second) for first, second in pairs],
        scores=scores,
        only=only,
        equal_weights={
            (first.seed, second.seed): equal_weights(first.directory, second.directory) for first, second in pairs
        },
    )


def _with_equal_seeds(baseline: Side, ours: Side) -> list[tuple[Run, Run]]:
    others = {run.seed: run for run in ours.runs}
    return [(run, others[run.seed]) for run in baseline.runs if run.seed in others]


# -- circumstances and data --------------------------------------------------------------------------------------


def _values(side: Side) -> dict[str, list[str]]:
    """Return the circumstances of all sessions of all runs of a side: name -> distinct values."""
    values: dict[str, list[str]] = {}
    for run in side.runs:
        for session in run.manifest.get("sessions", []):
            for name, value in circumstances_of(session).items():
                _add(values, name, value)
    return values


def _circumstances(side: Side) -> dict[str, list[str]]:
    return {name: values for name, values in _values(side).items() if name != PATCH}


def _data(side: Side) -> dict[str, list[str]]:
    values: dict[str, list[str]] = {}
    for run in side.runs:
        for split, fingerprint in run.manifest.get("data", {}).items():
            _add(values, split, fingerprint)
    return values


def _add(values: dict[str, list[str]], name: str, value: object) -> None:
    text = NONE if value is None else str(value)
    if text not in values.setdefault(name, []):
        values[name].append(text)


def _differing(sides: Sequence[Mapping[str, list[str]]]) -> dict[str, tuple[list[str], list[str]]]:
    first, second = sides
    return {
        name: (first.get(name, [NONE]), second.get(name, [NONE]))
        for name in dict.fromkeys((*first, *second))
        if sorted(first.get(name, [NONE])) != sorted(second.get(name, [NONE]))
    }


def _patch_diff(sides: Sequence[Side], patches: Sequence[list[str]]) -> list[str]:
    """Return the diff of two patches; empty if they are equal or a side has several."""
    if patches[0] == patches[1] or any(len(names) != 1 or names[0] == UNKNOWN for names in patches):
        return []
    first, second = (_patch(side, names[0]) for side, names in zip(sides, patches, strict=True))
    return [line.rstrip("\n") for line in difflib.unified_diff(first, second, patches[0][0], patches[1][0], n=1)]


def _patch(side: Side, name: str) -> list[str]:
    if name == NONE:
        return []
    for run in side.runs:
        path: Path = run.directory.path / name
        if path.is_file():
            return path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    return [f"{name} is missing\n"]


# -- curves and scores -------------------------------------------------------------------------------------------


def _parting(first: Run, second: Run) -> Parting:
    values = [logged_values(run.rows) for run in (first, second)]
    num_equal, differences = first_difference(*values)
    last = [max((step for step, _ in each), default=0) for each in values]
    return Parting((first.seed, second.seed), num_equal, differences, (last[0], last[1]))


def _scores(
    sides: tuple[Side, Side], single: bool, level: float
) -> tuple[list[ScoreDifference], tuple[list[str], list[str]]]:
    of_sides = [[{n: v for n, v in run.scores().items() if is_score(n)} for run in side.runs] for side in sides]
    names = [dict.fromkeys(name for scores in side for name in scores) for side in of_sides]
    found = []
    for metric in [name for name in names[0] if name in names[1]]:
        values = [
            {run.seed: scores[metric] for run, scores in zip(side.runs, each, strict=True) if metric in scores}
            for side, each in zip(sides, of_sides, strict=True)
        ]
        test, reason = _tested(sides, single, metric, values, level)
        means = [statistics.fmean(each.values()) for each in values]
        num = len(values[0]), len(values[1])
        found.append(ScoreDifference(metric, means[0], means[1], num, test, reason))
    only = [name for name in names[0] if name not in names[1]], [name for name in names[1] if name not in names[0]]
    return [*_adjusted(found)], only


def _tested(
    sides: tuple[Side, Side], single: bool, metric: str, values: Sequence[Mapping[int, float]], level: float
) -> tuple[Difference | None, str]:
    if not single:
        return compare_seeds(values[1], values[0], level), ""
    counts = paired_counts(sides[1].runs[0], sides[0].runs[0], metric)
    if not isinstance(counts, PairedCounts):
        return None, counts
    return _scaled(compare_models(counts.ours, counts.baseline, counts.score, level=level), counts.scale), ""


def _scaled(found: Difference, scale: float) -> Difference:
    """Return a difference in the unit of its metric, such as percent."""
    if scale == 1 or found.difference is None:
        return found
    interval = None if found.interval is None else (scale * found.interval[0], scale * found.interval[1])
    return replace(found, difference=scale * found.difference, interval=interval)


def _adjusted(found: Sequence[ScoreDifference]) -> Iterator[ScoreDifference]:
    adjusted = holm([each.test.p if each.test is not None else None for each in found])
    for each, p in zip(found, adjusted, strict=True):
        yield replace(each, p_adjusted=p)


def as_json(found: SideDifferences) -> dict[str, Any]:
    """Return the differences as values for JSON."""
    return {
        "sides": [{"path": side.name, "runs": {run.seed: run.name for run in side.runs}} for side in found.sides],
        "configuration": {each.key: [each.old, each.new] for each in found.configuration},
        "circumstances": found.circumstances,
        "data": found.data,
        "patches": found.patches,
        "curves": [
            {
                "seeds": each.seeds,
                "equal_values": each.num_equal,
                "part_at_step": each.differences[0].step if each.differences else None,
                "differences": {one.metric: [one.before, one.now] for one in each.differences},
                "last_steps": each.last_steps,
            }
            for each in found.partings
        ],
        "scores": [_score_json(each) for each in found.scores],
        "equal_weights": [{"seeds": seeds, "equal": equal} for seeds, equal in found.equal_weights.items()],
    }


def _score_json(score: ScoreDifference) -> dict[str, Any]:
    test = score.test
    return {
        "metric": score.metric,
        "values": [score.baseline, score.ours],
        "n": score.num,
        "difference": test.difference if test is not None else score.ours - score.baseline,
        "interval": test.interval if test is not None else None,
        "p": test.p if test is not None else None,
        "p_adjusted": score.p_adjusted,
        "test": test.test if test is not None else None,
        "notes": test.notes if test is not None else [score.reason],
    }
