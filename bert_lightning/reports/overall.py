"""Comparison of arms over several tasks, if several tables have the same arms."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from bert_lightning.reports.arms import PRETRAINING, data_place
from bert_lightning.reports.captions import equivalence_caption
from bert_lightning.reports.cells import ALPHA, LEVEL, has_scipy
from bert_lightning.reports.results import Metric, MetricCell, Overall, OverallArm, ResultTable
from bert_lightning.studies.comparison import Summary
from bert_lightning.studies.statistics import compare_tasks, holm, mean_interval, tasks_won

AVERAGE = "average over tasks"

# Label of an arm -> task -> seed -> score.
_Scores = Mapping[str, Mapping[str, Mapping[int, float]]]


def overall_of(tables: Sequence[ResultTable]) -> Iterator[Overall]:
    """Yield the comparison of arms over tasks, for each group of tables that have the same arms and baseline.

    The tables of one study form a group. Studies with only one table form a group together, if they have the same
    arms. Data that occur twice count once.
    """
    if not has_scipy():
        return
    usable = [(table, metric) for table in tables if (metric := _metric(table)) is not None]
    groups: dict[tuple[object, ...], list[tuple[ResultTable, Metric]]] = {}
    for table, metric in usable:
        of_study = [
            other for other, _ in usable if other.directory == table.directory and _arms(other) == _arms(table)
        ]
        place = table.directory if len(of_study) > 1 else None
        groups.setdefault((place, table.baseline, _arms(table)), []).append((table, metric))
    chosen = [group for members in groups.values() if len(group := _with_own_data(members)) > 1]
    for group in chosen:
        studies = {table.study for table, _ in group}
        study = next(iter(studies)) if len(studies) == 1 else None
        title = f"{study}: over all tasks" if study is not None and len(chosen) > 1 else "Over all tasks"
        yield _overall(title, group)


def _metric(table: ResultTable) -> Metric | None:
    """Return the first metric that is better when higher and whose scores all lie between 0 and 1; None without one.

    Tables of pre-training have none: their scores measure the pre-training task, not how good the encoder is.
    """
    if table.baseline is None or table.search is not None or table.task == PRETRAINING or len(table.arms) < 2:
        return None
    for metric in table.metrics:
        values = [
            value
            for arm in table.arms
            if metric.name in arm.cells
            for value in arm.cells[metric.name].values.values()
            if math.isfinite(value)
        ]
        if metric.better == "max" and values and min(values) >= 0 and max(values) <= 1:
            return metric
    return None


def _arms(table: ResultTable) -> frozenset[str]:
    return frozenset(arm.label for arm in table.arms)


def _with_own_data(members: Sequence[tuple[ResultTable, Metric]]) -> list[tuple[ResultTable, Metric]]:
    """Leave out tables whose data are also those of an earlier table, because they would count twice."""
    first: dict[tuple[str, ...], tuple[ResultTable, Metric]] = {}
    for table, metric in members:
        run = next(run for arm in table.arms for run in arm.runs)
        first.setdefault(data_place(run), (table, metric))
    return [*first.values()]


def _overall(title: str, group: Sequence[tuple[ResultTable, Metric]]) -> Overall:
    table = group[0][0]
    assert table.baseline is not None, "tables without a baseline are in no group"
    scores = {
        arm.label: {other.title: _values(other, arm.label, metric.name) for other, metric in group}
        for arm in table.arms
    }
    margins = {other.margin for other, _ in group}
    # An average over tasks has the unit of their scores, so their margin holds for it too, if all have the same.
    margin = next(iter(margins)) if len(margins) == 1 else None
    arms = [_arm(label, scores, table.baseline, margin) for label in scores]
    adjusted = holm([arm.cell.p for arm in arms])
    arms = [
        replace(arm, cell=replace(arm.cell, p_adjusted=p), is_baseline=arm.label == table.baseline)
        for arm, p in zip(arms, adjusted, strict=True)
    ]
    tasks = {other.title: metric.name for other, metric in group}
    return Overall(title, tasks, tuple(arms), table.baseline, tuple(_caption(tasks, arms, table.baseline, margin)))


def _values(table: ResultTable, label: str, metric: str) -> Mapping[int, float]:
    cell = next(arm for arm in table.arms if arm.label == label).cells.get(metric)
    return cell.values if cell is not None else {}


def _arm(label: str, scores: _Scores, baseline: str, margin: float | None) -> OverallArm:
    """Compare an arm with the baseline.

    An arm with a score that is not finite gets no average: the average of its other scores would flatter it.
    """
    own, other = scores[label], scores[baseline]
    broken = [task for task, values in own.items() if not all(map(math.isfinite, values.values()))]
    lacking = [task for task, values in own.items() if not values]
    if broken or lacking:
        reason = f"has a score of {broken[0]} that is not finite" if broken else f"has no score of {lacking[0]}"
        return OverallArm(label, MetricCell(AVERAGE, {}, notes=(f"{label} {reason}, so it has no average.",)))
    averages = _averages(own)
    if not averages:
        return OverallArm(label, MetricCell(AVERAGE, {}, notes=(f"{label} has no seed with all tasks.",)))
    summary = Summary.of([*averages.values()])
    interval = mean_interval([*averages.values()], LEVEL).interval if summary.num > 1 else None
    cell = MetricCell(AVERAGE, averages, summary.mean, summary.deviation, mean_interval=interval)
    comparable = all(values and all(map(math.isfinite, values.values())) for values in other.values())
    if label == baseline or not comparable or not _averages(other):
        return OverallArm(label, cell)
    found = compare_tasks(own, other, LEVEL, margin)
    cell = replace(
        cell,
        difference=found.difference,
        interval=found.interval,
        p=found.p,
        test=found.test,
        exact_p=found.exact_p,
        exact_test=found.exact_test,
        equivalent=found.equivalent,
        notes=found.notes,
    )
    return OverallArm(label, cell, tasks_won(own, other))


def _averages(scores: Mapping[str, Mapping[int, float]]) -> dict[int, float]:
    """Return the average over tasks of each seed that has all tasks."""
    shared = set.intersection(*(set(values) for values in scores.values()))
    return {seed: sum(values[seed] for values in scores.values()) / len(scores) for seed in sorted(shared)}


def _caption(
    tasks: Mapping[str, str], arms: Sequence[OverallArm], baseline: str, margin: float | None
) -> Iterator[str]:
    named = ", ".join(f"{title} ({metric})" for title, metric in tasks.items())
    yield (
        f"The average over {len(tasks)} tasks of each seed, as mean ± standard deviation (n − 1) over seeds: {named}."
    )
    yield (
        "Each task is represented by its first metric that is better when higher and whose scores all lie between 0 "
        "and 1, so that no loss is averaged with an accuracy. Pre-training does not count."
    )
    tests = list(dict.fromkeys(arm.cell.test for arm in arms if arm.cell.test is not None and arm.cell.p is not None))
    if tests:
        yield f"Differences are to {baseline}, with {100 * LEVEL:g} % intervals over seeds ({' or '.join(tests)})."
    num_tests = sum(arm.cell.p is not None for arm in arms)
    if num_tests > 1:
        yield f"p is adjusted by Holm's method over the {num_tests} comparisons."
    if any(arm.cell.p_adjusted is not None and arm.cell.p_adjusted < ALPHA for arm in arms):
        yield f"*: the difference to the baseline has an adjusted p below {ALPHA:g}."
    if margin is not None:
        yield equivalence_caption(margin)
    labels: dict[str, list[str]] = {}
    for arm in arms:
        for note in arm.cell.notes:
            # The number of tasks won is in a column of the table.
            if not note.startswith(f"Of {len(tasks)} tasks"):
                labels.setdefault(note, []).append(arm.label)
    num_compared = sum(arm.cell.difference is not None for arm in arms)
    for note, of_note in labels.items():
        alone = len(of_note) == num_compared or note.startswith(of_note[0])
        yield note if alone else f"{'; '.join(of_note)}: {note}"
