"""From runs to results: arms and metrics, statistics, captions, confounds, and runs that are not in the table."""

from collections.abc import Iterator, Mapping, Sequence

from bert_lightning.checks import nearest
from bert_lightning.config.published import Published
from bert_lightning.errors import InputError
from bert_lightning.reports.arms import Arm, Layout, find_arm, layouts_of, require_arm
from bert_lightning.reports.captions import budget_text, caption_of
from bert_lightning.reports.cells import cells_of, metrics_of, with_published
from bert_lightning.reports.checklist import checklist_of
from bert_lightning.reports.confounds import confounds_of
from bert_lightning.reports.failures import failures_of
from bert_lightning.reports.overall import overall_of
from bert_lightning.reports.results import ArmResult, Metric, MetricCell, PublishedFigure, Results, ResultTable
from bert_lightning.reports.sequences import of_sequence, sequence_tables
from bert_lightning.studies.found_runs import Found, FoundStudy, is_done


def tabulate(
    found: Found,
    baseline: str | None = None,
    metrics: Sequence[str] = (),
    *,
    checklist: bool = False,
    ranges: bool = False,
) -> Results:
    """Make the tables of runs and studies.

    Args:
        found: the runs.
        baseline: the arm that the others are compared with, by its label or some of its values. None for
            `compare.baseline` of a study, or else its first arm; runs outside studies are then not compared.
        metrics: the columns; empty for those that the study compares, or else all.
        checklist: whether to fill in the reproducibility checklist.
        ranges: whether the tables should show median, smallest and largest value.

    Raises:
        InputError: no run has finished, the baseline is not an arm, no run has a metric of `metrics`, or arms are to
            be compared and scipy is not installed.
    """
    if not found.finished():
        raise InputError(f"no run has finished, so there is nothing to report{_states(found)}")
    layouts = layouts_of(found)
    if baseline is not None:
        require_arm(baseline, layouts)
    known = list(dict.fromkeys(metric.name for layout in layouts for metric in metrics_of(layout.runs)))
    for name in metrics:
        if name not in known:
            raise InputError(f"--metric is {name!r}, but no run has this metric{nearest(name, known)}")
    for study in found.studies if not metrics else ():
        wanted, logged = study.record.compare.metric, _logged(study)
        if wanted and logged and not set(wanted) & set(logged):
            raise InputError(
                f"{study.directory}: compare.metric is {wanted[0]!r}, but no run has this metric"
                f"{nearest(wanted[0], logged)}"
            )
    tables = [_table(layout, baseline, metrics) for layout in layouts]
    # The stages of a sequence are no separate tasks: its measures compare the arms over all of them.
    apart = [table for table, layout in zip(tables, layouts, strict=True) if not of_sequence(layout)]
    overall = tuple(overall_of(apart))
    return Results(
        (*sequence_tables(layouts, tables), *tables),
        tuple(checklist_of(layouts)) if checklist else (),
        ranges,
        overall,
    )


def _logged(study: FoundStudy) -> list[str]:
    """Return the metrics of the runs of a study; none as long as some run has not finished, which may log others."""
    runs = [run.run for run in study.runs if is_done(run) and run.run is not None]
    return [metric.name for metric in metrics_of(runs)] if len(runs) == len(study.runs) else []


def _states(found: Found) -> str:
    """Return the end of a message: the states of the first runs."""
    runs = [run for runs in (found.runs, *(study.runs for study in found.studies)) for run in runs]
    shown = [f"{run.directory.path} {run.state}" + (f" ({run.message})" if run.message else "") for run in runs[:3]]
    more = [f"{len(runs) - 3:,} more"] if len(runs) > 3 else []
    return f": {', '.join([*shown, *more])}" if runs else ""


def _table(layout: Layout, baseline: str | None, metrics: Sequence[str]) -> ResultTable:
    record = layout.record
    columns = _columns(layout, metrics)
    chosen = _baseline(layout, baseline)
    margin = record.compare.equivalence if record is not None else None
    search = record.search if record is not None and layout.of_search else None
    cells = {metric.name: cells_of(metric, layout.arms, chosen, margin) for metric in columns}
    arms = tuple(_arm_result(arm, cells, layout, arm is chosen) for arm in layout.arms)
    return ResultTable(
        title=layout.title,
        task=layout.task,
        metrics=tuple(columns),
        arms=arms,
        study=record.study if record is not None else None,
        stage=layout.stage,
        question=record.question if record is not None else None,
        directory=layout.directory,
        baseline=chosen.label if chosen is not None else None,
        caption=(
            *caption_of(columns, arms, chosen.label if chosen else None, margin, search),
            *_chosen_by_search(layout),
        ),
        confounds=tuple(confounds_of(layout, [*cells.values()])),
        missing=tuple(layout.missing),
        search=search,
        failures=failures_of(arms),
        margin=margin,
    )


def _columns(layout: Layout, metrics: Sequence[str]) -> list[Metric]:
    """Return the metrics of a table: the given ones that it has, or else those that the study compares, or all."""
    known = {metric.name: metric for metric in metrics_of(layout.runs)}
    wanted = metrics or (layout.record.compare.metric if layout.record is not None else ())
    chosen = [known[name] for name in dict.fromkeys(wanted) if name in known]
    return chosen or list(known.values())


def _baseline(layout: Layout, name: str | None) -> Arm | None:
    """Return the arm to compare with: the given one, or else that of the study, or its first arm."""
    if name is not None and (arm := find_arm(name, layout.arms)) is not None:
        return arm
    if layout.record is None or layout.of_search or not layout.arms:
        return None
    of_study = layout.record.compare.baseline
    return (find_arm(of_study, layout.arms) if of_study is not None else None) or layout.arms[0]


def _arm_result(
    arm: Arm, cells: Mapping[str, Mapping[str, MetricCell]], layout: Layout, is_baseline: bool
) -> ArmResult:
    figures = _published(arm, layout)
    own = {name: with_published(by_arm[arm.label], figures) for name, by_arm in cells.items() if arm.label in by_arm}
    unmeasured = tuple(PublishedFigure(figure, None, None) for figure in figures if figure.metric not in own)
    return ArmResult(
        arm.label, arm.values, tuple(arm.runs), own, is_baseline, tuple(arm.missing), arm.trial, unmeasured
    )


def _published(arm: Arm, layout: Layout) -> list[Published]:
    """Return the published figures of an arm: those of the study, and those of its experiment."""
    figures = list(layout.record.published.get(arm.label, ())) if layout.record is not None else []
    for run in arm.runs[:1]:
        figures += [Published(**entry) for entry in run.config.get("published", [])]
    return list(dict.fromkeys(figures))


def _chosen_by_search(layout: Layout) -> Iterator[str]:
    """Yield a sentence per arm whose settings a search chose: budget, and optimism of the score in the search."""
    search = layout.record.search if layout.record is not None and not layout.of_search else None
    if search is None:
        return
    for label, outcome in (search.get("arms") or {}).items():
        if not any(arm.label == label for arm in layout.arms):
            continue
        confirmation = outcome.get("confirmation")
        optimism = confirmation["optimism"] if confirmation else 0.0
        amount = f"{abs(optimism):.4f} {'too good' if optimism > 0 else 'worse than with its seeds here'}"
        promised = f", and its score there was {amount}" if confirmation else ""
        yield (
            f"{label} is the best of {budget_text(search, label)} of a search{promised}. "
            "Its seeds here had no part in that choice."
        )
