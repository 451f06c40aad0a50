"""The numbers of a table: scores over seeds, and their differences to the baseline and to the best arm."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec

from bert_lightning.config.published import Published, within
from bert_lightning.metrics.direction import Better, better
from bert_lightning.reports.arms import Arm
from bert_lightning.reports.results import Metric, MetricCell, PublishedFigure
from bert_lightning.studies.comparison import Run, Summary
from bert_lightning.studies.example_scores import differences_by_seed
from bert_lightning.studies.statistics import compare_seeds, crossed_interval, holm, mean_interval

# The significance level: a difference is marked if its adjusted p is below this.
ALPHA = 0.05
LEVEL = 1 - ALPHA


def metrics_of(runs: Sequence[Run]) -> list[Metric]:
    """Return the metrics of some runs, in order of appearance, each with its better direction."""
    names = dict.fromkeys(name for run in runs for name in run.scores())
    return [Metric(name, _better(name, runs)) for name in names]


def _better(name: str, runs: Sequence[Run]) -> Better | None:
    """Return the better direction: that of `checkpoint.monitor` if it is this metric, or else by the name."""
    for run in runs:
        settings = run.config.get("checkpoint", {})
        if settings.get("monitor") == name and settings.get("mode") in ("min", "max"):
            return "min" if settings["mode"] == "min" else "max"
    return better(name)


def cells_of(
    metric: Metric, arms: Sequence[Arm], baseline: Arm | None, equivalence: float | None
) -> dict[str, MetricCell]:
    """Compute one metric of all arms: label of the arm -> cell. Arms in which no run has the metric are left out.

    Args:
        metric: the metric.
        arms: the arms of a table.
        baseline: the arm that the others are compared with; None for no comparison.
        equivalence: the margin of equivalence, in units of the metric; None for no test of it.

    Raises:
        InputError: there are arms to compare, but scipy is not installed.
    """
    scored = _scored(metric.name, [run for arm in arms for run in arm.runs])
    cells = {arm.label: _alone(metric.name, arm, scored) for arm in arms}
    kept = {label: cell for label, cell in cells.items() if cell.values}
    if baseline is not None and baseline.label in kept:
        kept = _compared(kept, baseline.label, equivalence)
        kept = _with_examples(kept, {arm.label: arm for arm in arms}, baseline)
    return _marked(kept, metric.better)


def _alone(name: str, arm: Arm, scored: str | None) -> MetricCell:
    """Return the cell of one arm, without comparison.

    Args:
        name: the metric.
        arm: the arm.
        scored: the checkpoint that all arms were scored with; None if they were scored with different ones.
    """
    values = {run.seed: scores[name] for run in arm.runs if name in (scores := run.scores())}
    notes = []
    lacking = [str(run.seed) for run in arm.runs if run.seed not in values]
    if values and lacking:
        notes.append(f"{name} is missing for {seeds_text(lacking)}, so n is {len(values)}.")
    broken = [str(seed) for seed, value in values.items() if not math.isfinite(value)]
    if broken:
        notes.append(
            f"{name} of {seeds_text(broken)} is not finite, so there is no mean: the mean of the other seeds would "
            "flatter the arm."
        )
    scored = scored or _scored(name, arm.runs) or _steps(name, arm.runs)
    cell = MetricCell(name, values) if broken or not values else summarised(name, values)
    return replace(cell, notes=tuple(notes), scored=scored)


def summarised(name: str, values: Mapping[int, float]) -> MetricCell:
    """Return the cell of a metric: seed -> value, all finite, at least one."""
    summary = Summary.of([*values.values()])
    interval = mean_interval([*values.values()], LEVEL).interval if summary.num > 1 and has_scipy() else None
    return MetricCell(
        name,
        values,
        summary.mean,
        summary.deviation,
        summary.median,
        summary.minimum,
        summary.maximum,
        interval,
    )


def compared(
    metric: Metric, values: Mapping[str, Mapping[int, float]], baseline: str | None, equivalence: float | None
) -> dict[str, MetricCell]:
    """Compute a metric that no run logs by itself: label of the arm -> cell, compared with the baseline.

    Args:
        metric: the metric.
        values: label of the arm -> seed -> value, all finite. Arms without a value are left out.
        baseline: label of the arm with which the others are compared.
        equivalence: the margin of equivalence, in units of the metric; None for no test of it.
    """
    cells = {label: summarised(metric.name, of_arm) for label, of_arm in values.items() if of_arm}
    if baseline in cells and baseline is not None and has_scipy():
        cells = _compared(cells, baseline, equivalence)
    return _marked(cells, metric.better)


def has_scipy() -> bool:
    """Return whether scipy is installed, which intervals and tests need."""
    return find_spec("scipy") is not None


def seeds_text(seeds: Sequence[str]) -> str:
    """Return seeds as a part of a sentence.

    >>> seeds_text(["3"]), seeds_text(["1", "2"])
    ('seed 3', 'seeds 1, 2')
    """
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)}"


def _scored(name: str, runs: Sequence[Run]) -> str | None:
    """Return the checkpoint that all runs with a metric were scored with; None if there is none."""
    sets = [run.scored_checkpoints(name) for run in runs if name in run.scores()]
    shared = frozenset.intersection(*sets) if sets else frozenset()
    return next((each for each in ("best", "last") if each in shared), min(shared, default=None))


def _steps(name: str, runs: Sequence[Run]) -> str | None:
    """Return all checkpoints that the runs with a metric were scored with, as text; None if there is no such run."""
    names = {each for run in runs if name in run.scores() for each in run.scored_checkpoints(name)}
    return ", ".join(sorted(names)) or None


def _compared(cells: Mapping[str, MetricCell], baseline: str, equivalence: float | None) -> dict[str, MetricCell]:
    """Compare each arm with the baseline, and adjust the p-values by Holm's method over the arms."""
    other = cells[baseline]
    result = dict(cells)
    for label, cell in cells.items():
        if label == baseline or cell.mean is None or other.mean is None:
            continue
        found = compare_seeds(cell.values, other.values, LEVEL, equivalence)
        result[label] = replace(
            cell,
            difference=found.difference,
            interval=found.interval,
            p=found.p,
            test=found.test,
            exact_p=found.exact_p,
            exact_test=found.exact_test,
            equivalent=found.equivalent,
            notes=(*cell.notes, *found.notes),
        )
    adjusted = holm([cell.p for cell in result.values()])
    return {label: replace(cell, p_adjusted=p) for (label, cell), p in zip(result.items(), adjusted, strict=True)}


def _with_examples(cells: Mapping[str, MetricCell], arms: Mapping[str, Arm], baseline: Arm) -> dict[str, MetricCell]:
    """Add the interval over seeds and examples, if the predictions of all seeds of both arms exist."""
    result = dict(cells)
    for label, cell in cells.items():
        if cell.interval is None or cell.values.keys() != cells[baseline.label].values.keys():
            continue
        differences = differences_by_seed(arms[label].runs, baseline.runs, cell.metric)
        if differences is not None:
            result[label] = replace(cell, crossed_interval=crossed_interval(differences, LEVEL).interval)
    return result


def _marked(cells: Mapping[str, MetricCell], direction: Better | None) -> dict[str, MetricCell]:
    """Mark the best mean, and the arms that are not shown to be worse than the best arm (p >= ALPHA after Holm)."""
    means = {label: cell.mean for label, cell in cells.items() if cell.mean is not None}
    # If all means are equal, no arm is the best.
    if direction is None or len(set(means.values())) < 2:
        return dict(cells)
    best = (max if direction == "max" else min)(means.values())
    winner = next(label for label, mean in means.items() if mean == best)
    others = [label for label in means if means[label] != best]
    testable = cells[winner].n > 1 and has_scipy()
    p_values = [
        compare_seeds(cells[label].values, cells[winner].values).p if testable and cells[label].n > 1 else None
        for label in others
    ]
    not_worse = {label for label, p in zip(others, holm(p_values), strict=True) if p is not None and p >= ALPHA}
    return {
        label: replace(cell, best=means.get(label) == best, not_worse=label in not_worse)
        for label, cell in cells.items()
    }


def with_published(cell: MetricCell, figures: Sequence[Published]) -> MetricCell:
    """Return a cell with the published figures for its metric."""
    of_metric = tuple(
        PublishedFigure(figure, cell.mean, within(figure, cell.mean) if cell.mean is not None else None)
        for figure in figures
        if figure.metric == cell.metric
    )
    return replace(cell, published=of_metric)
