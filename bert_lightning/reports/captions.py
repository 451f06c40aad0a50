"""The caption of a table: what its numbers are, and what they cannot show."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bert_lightning.reports.cells import ALPHA, LEVEL, has_scipy
from bert_lightning.reports.results import ArmResult, Metric, MetricCell, ResultTable
from bert_lightning.wording import count

_CHECKPOINTS = {
    "last": "the checkpoint after the last step",
    "best": "the best checkpoint of the run",
}


def caption_of(
    metrics: Sequence[Metric],
    arms: Sequence[ArmResult],
    baseline: str | None,
    margin: float | None,
    search: Mapping[str, Any] | None,
) -> Iterator[str]:
    """Yield the sentences of a caption.

    Args:
        metrics: the columns.
        arms: the rows.
        baseline: label of the arm that the others are compared with; None without comparison.
        margin: the margin of equivalence, in units of the metric; None if the study has none.
        search: the entry `search` of the record of the study, if the rows are trials.
    """
    cells = [cell for arm in arms for cell in arm.cells.values()]
    if not cells:
        return
    yield from _spread(arms, cells)
    yield from _scored(cells)
    yield from _comparison(arms, cells, baseline, margin)
    if search is not None:
        yield from _budgets(search)
        yield (
            "The rows are trials of a search. The best of several scores is too good by chance: report the score of "
            "runs with other seeds."
        )
    if any(cell.n > 1 for cell in cells) and not has_scipy():
        yield "There are no intervals and tests, because scipy is not installed (extra `studies`)."


def budget_text(search: Mapping[str, Any], label: str) -> str:
    """Return the budget of a searched arm as text: number of trials, and of seeds per trial."""
    trials = (search["arms"][label] or {}).get("trials", ())
    seeds = search.get("seeds") or ()
    return count(len(trials), "trial") + (f" with {count(len(seeds), 'seed')} each" if seeds else "")


def _budgets(search: Mapping[str, Any]) -> Iterator[str]:
    """Yield the budget of each searched arm, because the best of more trials is better by chance."""
    budgets = {label: budget_text(search, label) for label in search.get("arms") or {}}
    if len(budgets) == 1:
        yield f"The search had {next(iter(budgets.values()))}."
    elif budgets:
        yield f"The search had {'; '.join(f'{text} for {label}' for label, text in budgets.items())}."


def whole_caption(table: ResultTable) -> str:
    """Return the caption of a table as text, with the meaning of its marks and the notes of its cells."""
    cells = [cell for arm in table.arms for cell in arm.cells.values()]
    marks = _marks(table.metrics, cells)
    return " ".join([*table.caption, *marks, *_notes(table.arms, len(table.metrics))])


def _notes(arms: Sequence[ArmResult], num_metrics: int) -> Iterator[str]:
    """Yield the notes of the cells. The arms are named unless a note holds for all cells with a difference."""
    labels: dict[str, list[str]] = {}
    num_compared = 0
    for arm in arms:
        for cell in arm.cells.values():
            num_compared += cell.difference is not None
            for note in cell.notes:
                labels.setdefault(note, []).append(arm.label if num_metrics == 1 else f"{arm.label}, {cell.metric}")
    for note, of_note in labels.items():
        yield note if len(of_note) == num_compared else f"{'; '.join(dict.fromkeys(of_note))}: {note}"


def _spread(arms: Sequence[ArmResult], cells: Sequence[MetricCell]) -> Iterator[str]:
    counts = sorted({len(arm.runs) for arm in arms if arm.runs})
    if max(cell.n for cell in cells) == 1:
        yield (
            "Each number is from a single run (n = 1). Without a spread over seeds, no difference in this table can "
            "be told from chance."
        )
        return
    number = f"n = {counts[0]}" if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]} (column n)"
    yield f"Mean ± standard deviation (n − 1) over seeds, {number}. The spread is over seeds and not over examples."
    if counts[0] == 1:
        yield "An arm with n = 1 has no spread, and its difference to another arm cannot be tested."


def _scored(cells: Sequence[MetricCell]) -> Iterator[str]:
    for stage, name in (("val", "Scores on validation data (val/)"), ("test", "Scores on test data (test/)")):
        scored = dict.fromkeys(
            cell.scored for cell in cells if cell.scored is not None and cell.metric.startswith(f"{stage}/")
        )
        if scored:
            yield f"{name} are of {' or of '.join(_CHECKPOINTS.get(each, each) for each in scored)}."


def _comparison(
    arms: Sequence[ArmResult], cells: Sequence[MetricCell], baseline: str | None, margin: float | None
) -> Iterator[str]:
    if baseline is None or len(arms) < 2:
        return
    if not next(arm for arm in arms if arm.is_baseline).runs:
        yield f"The baseline {baseline} has no finished run, so there are no differences."
        return
    tests = list(dict.fromkeys(cell.test for cell in cells if cell.test is not None and cell.interval is not None))
    if not tests:
        return
    # "the paired t test", but "Welch's t test".
    named = [test if "'" in test.split()[0] else f"the {test}" for test in tests]
    condition = " where the seeds of the two arms differ" if len(named) > 1 else ""
    yield (
        f"Differences are to {baseline}, with {100 * LEVEL:g} % intervals over seeds by "
        f"{' or '.join(named)}{condition}."
    )
    names = dict.fromkeys(cell.metric for cell in cells)
    num_tests = [sum(cell.p is not None for cell in cells if cell.metric == name) for name in names]
    if max(num_tests) > 1:
        counts = sorted({count for count in num_tests if count})
        number = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        yield f"p is adjusted by Holm's method over the {number} comparisons per metric."
    else:
        yield "p needs no correction, because each metric has one comparison."
    exact = dict.fromkeys(cell.exact_test for cell in cells if cell.exact_p is not None and cell.exact_test)
    if exact:
        yield f"The exact p is of the {' or the '.join(exact)} and is not adjusted."
    if margin is not None:
        yield equivalence_caption(margin)
    if any(cell.crossed_interval is not None for cell in cells):
        yield (
            "The interval over seeds and examples also counts the choice of the examples as chance; it is not "
            "adjusted."
        )


def _marks(metrics: Sequence[Metric], cells: Sequence[MetricCell]) -> Iterator[str]:
    if any(cell.best for cell in cells):
        directions = [
            f"{word} is better for {', '.join(names)}"
            for word, direction in (("higher", "max"), ("lower", "min"))
            if (names := [metric.name for metric in metrics if metric.better == direction])
        ]
        yield f"Bold: the best mean ({'; '.join(directions)})."
    if any(cell.not_worse for cell in cells):
        yield (
            f"†: the seeds do not show that the arm is worse than the best one (p ≥ {ALPHA:g} after Holm's "
            "correction), which does not prove that it is as good."
        )
    if any(cell.p_adjusted is not None and cell.p_adjusted < ALPHA for cell in cells):
        yield f"*: the difference to the baseline has an adjusted p below {ALPHA:g}."
    unknown = [metric.name for metric in metrics if metric.better is None]
    if unknown and any(cell.best for cell in cells):
        yield f"Nothing is marked for {', '.join(unknown)}, which has no known better direction."


def equivalence_caption(margin: float) -> str:
    """Return the sentence that says which arms are called equivalent."""
    return (
        f"An arm is called equivalent if the {100 * (2 * LEVEL - 1):g} % interval of its difference lies within "
        f"±{margin:g} (two one-sided tests). Where that is not shown, the arms need not differ."
    )
