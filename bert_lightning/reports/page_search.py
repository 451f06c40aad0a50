"""The figures of a search in the page of a report, from the record of the search."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bert_lightning.reports.figures.search import (
    Trial,
    draw_expected,
    draw_history,
    draw_importance,
    draw_parallel,
)
from bert_lightning.reports.number_texts import number as number_text
from bert_lightning.reports.number_texts import signed
from bert_lightning.reports.page_sections import Section, picture_of
from bert_lightning.reports.page_tables import arm_target
from bert_lightning.reports.results import ResultTable


def search_sections(table: ResultTable, number: int) -> Iterator[Section]:
    """Yield a section for each searched arm of a study.

    Args:
        table: the table of the trials.
        number: its number in the page.
    """
    search = table.search
    if search is None:
        return
    arms = search.get("arms") or {}
    for label, found in arms.items():
        trials = _trials(table, number, label, found)
        if trials:
            heading = "The search" if len(arms) == 1 else f"The search of {label}"
            yield _section(heading, search, found, trials)


def _section(heading: str, search: Mapping[str, Any], found: Mapping[str, Any], trials: Sequence[Trial]) -> Section:
    metric, better = str(search["metric"]), "min" if search.get("direction") == "minimize" else "max"
    logarithmic = {key for key, bounds in (search.get("space") or {}).items() if _is_logarithmic(bounds)}
    pictures = [picture_of("the history", {"": lambda: draw_history(metric, trials, better)})]
    sentences = ["The line of the history is the best so far; crosses are trials without a score."]
    expected = found.get("expected_performance")
    if expected and len(expected["tang"]) > 1:
        pictures.append(picture_of("expected performance", {"": lambda: draw_expected(metric, expected["tang"])}))
        sentences.append("The expected best of n trials is what a search of that budget would have found on average.")
        if not expected.get("independent"):
            sentences.append("It is only an approximation here, because the trials were not drawn independently.")
        if expected.get("without_score"):
            sentences.append("Trials without a score count with the worst one.")
    if sum(trial.score is not None for trial in trials) > 1:
        pictures.append(picture_of("the values", {"": lambda: draw_parallel(metric, trials, better, logarithmic)}))
        sentences.append(
            "In the figure of values, each line is a trial: the stronger its colour, the better its score. The best "
            "trial is orange."
        )
    importance = found.get("importance")
    if importance:
        correlations = found.get("rank_correlation") or {}
        pictures.append(picture_of("importance", {"": lambda: draw_importance(importance["values"], correlations)}))
        sentences.append(
            f"Importance ({importance['method']}) measures how far the values of the best "
            f"{importance['best_share']:.0%} of the trials differ from those of all trials. It is uncertain with few "
            "trials. r is the rank correlation of a key with the score."
        )
    return Section(heading, tuple(pictures), caption=" ".join([*sentences, *_confirmation(metric, found)]))


def _confirmation(metric: str, found: Mapping[str, Any]) -> Iterator[str]:
    """Yield a sentence about the score of the best trial with fresh seeds."""
    best, confirmation = found.get("best"), found.get("confirmation")
    if not best or not confirmation:
        return
    seeds = ", ".join(confirmation["scores"])
    yield (
        f"The best one, trial {best['trial']}, has {metric} {number_text(best['score'])} in the search and "
        f"{number_text(confirmation['score'])} with the fresh seeds {seeds}: the optimism of the search "
        f"is {signed(confirmation['optimism'])}."
    )


def _trials(table: ResultTable, number: int, label: str, found: Mapping[str, Any]) -> list[Trial]:
    rows = {(arm.label, arm.trial): row for row, arm in enumerate(table.arms)}
    trials = []
    for each in found.get("trials", ()):
        place = each["trial"]
        # If only one arm is searched, the names of its trials do not contain the arm.
        row = rows.get((f"{label}, trial {place}", place), rows.get((f"trial {place}", place)))
        if row is None:
            target = f"table-{number}"
        else:
            target = arm_target(number, row) if table.arms[row].runs else f"missing-{number}"
        trials.append(Trial(place, each["values"], each["score"], each["state"], target))
    return trials


def _is_logarithmic(bounds: object) -> bool:
    return isinstance(bounds, Mapping) and bool(bounds.get("log"))
