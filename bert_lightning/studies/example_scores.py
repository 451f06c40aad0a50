"""Per-example counts of a metric, from the predictions of two runs, or of two arms with the same seeds."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bert_lightning.metrics.correlation import spearman
from bert_lightning.metrics.spans import spans_of
from bert_lightning.metrics.squad import exact_match, f1, f1_or_both_empty
from bert_lightning.studies.comparison import Run
from bert_lightning.studies.statistics.resampling import Score
from bert_lightning.studies.statistics.scores import (
    ACCURACY,
    F1,
    MACRO_F1,
    MATTHEWS,
    MEAN,
    OfMeans,
    Rows,
    confusion_counts,
    item_counts,
)

# The fields of a prediction that a model writes. All other fields identify the example.
_OUTPUTS = {
    *("label", "labels", "probabilities", "choice", "score", "answer", "start", "probability", "null_odds", "nbest"),
    *("tags", "entities"),
}
# Numbers in predictions are rounded to six digits.
_TOLERANCE = 2e-5
_FILES = {"val": "validation.jsonl", "test": "test.jsonl"}
_Predictions = list[dict[str, Any]]


@dataclass(frozen=True)
class PairedCounts:
    """Per-example counts of a metric, for two runs with the same examples.

    Attributes:
        ours: counts of one run, (examples, columns).
        baseline: counts of the other run, (examples, columns).
        score: function from counts (examples, columns) to the metric divided by `scale`.
        scale: 100 if the metric is in percent, otherwise 1.
        examples: each example as JSON, without the predictions.
    """

    ours: Rows
    baseline: Rows
    score: Score
    scale: float
    examples: tuple[str, ...]


def paired_counts(ours: Run, baseline: Run, metric: str) -> PairedCounts | str:
    """Return the per-example counts of a metric, from the predictions of the last validation or test of two runs.

    Args:
        ours: one run.
        baseline: the other run.
        metric: a metric that both runs have, such as val/accuracy.

    Returns:
        The counts. If there are none, the reason, which completes a sentence after "there is no test, because".
    """
    stage, _, quantity = metric.partition("/")
    runs = ours, baseline
    predictions = [_read(run.directory.predictions / _FILES.get(stage, "")) for run in runs]
    for run, rows in zip(runs, predictions, strict=True):
        if not rows:
            return f"{run.name} has no predictions with gold labels"
    examples, others_examples = (tuple(map(_example, rows)) for rows in predictions)
    if examples != others_examples:
        return "the two runs did not predict the same examples"
    found = False
    try:
        known = sorted(
            {row[key] for rows in predictions for row in rows for key in ("gold", "label") if "label" in row}
        )
        first, second = (_ways(quantity, rows, known) for rows in predictions)
        for (counts, score), (others, _) in zip(first, second, strict=False):
            found = True
            computed = score(counts), score(others)
            for scale in (1.0, 100.0):
                if all(_gives(run.scores()[metric], scale * each) for run, each in zip(runs, computed, strict=True)):
                    return PairedCounts(counts, others, score, scale, examples)
    except (KeyError, TypeError, ValueError):
        # A file of another form, such as one that a user's task wrote.
        return "the form of the predictions is not known"
    if found:
        return "the predictions do not give the recorded scores: they are those of another checkpoint"
    return "it is not computed from the predictions"


def differences_by_seed(ours: Sequence[Run], baseline: Sequence[Run], metric: str) -> Rows | None:
    """Return the difference of two arms for each seed and example, (seeds, examples), in units of the metric.

    Args:
        ours: the runs of one arm.
        baseline: the runs of the other arm.
        metric: the metric.

    Returns:
        The differences, ours minus the baseline. None if the metric is not a mean over examples, the arms do not have
        the same seeds in the same order, the predictions of a run do not give its score, or the examples differ.
    """
    if [run.seed for run in ours] != [run.seed for run in baseline]:
        return None
    found: list[PairedCounts] = []
    for pair in zip(ours, baseline, strict=True):
        counts = paired_counts(*pair, metric)
        if isinstance(counts, str) or counts.score not in (ACCURACY, MEAN):
            return None
        found.append(counts)
        if counts.examples != found[0].examples:
            return None
    if not found or len(found[0].examples) < 2:
        return None
    return np.stack([each.scale * (each.ours - each.baseline)[:, 0] for each in found])


def _gives(recorded: float, computed: float) -> bool:
    return math.isclose(recorded, computed, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)


def _read(path: Path) -> _Predictions:
    try:
        # As bytes, because a text would also be split at the line separators that a value may hold.
        rows = [json.loads(line) for line in path.read_bytes().splitlines()]
    except (OSError, ValueError):
        return []
    return rows if all(isinstance(row, dict) and "gold" in row for row in rows) else []


def _example(row: Mapping[str, object]) -> str:
    return json.dumps({key: value for key, value in row.items() if key not in _OUTPUTS}, sort_keys=True)


def _ways(quantity: str, rows: _Predictions, known: Sequence[Any]) -> Iterator[tuple[Rows, Score]]:
    """Yield the possible definitions of a metric: counts (examples, columns), and a function from them to the score.

    The predictions do not record, for example, which label is the positive one. The caller takes the definition that
    gives the recorded score.

    Args:
        quantity: name of the metric without `val/` or `test/`.
        rows: predictions.
        known: all labels of both runs, if each example has one label.
    """
    gold = [row["gold"] for row in rows]
    first = rows[0]
    if "label" in first:
        yield from _of_labels(quantity, gold, [row["label"] for row in rows], known)
    elif "labels" in first:
        yield from _of_label_sets(quantity, gold, [row["labels"] for row in rows])
    elif "tags" in first:
        yield from _of_tags(quantity, gold, [row["tags"] for row in rows])
    elif "answer" in first:
        yield from _of_answers(quantity, gold, [row["answer"] for row in rows])
    elif "score" in first:
        yield from _of_numbers(quantity, np.array([[row["score"], row["gold"]] for row in rows], np.float64))


def _of_labels(
    quantity: str, gold: Sequence[Any], labels: Sequence[Any], known: Sequence[Any]
) -> Iterator[tuple[Rows, Score]]:
    if quantity == "accuracy":
        yield _column(float(right == found) for right, found in zip(gold, labels, strict=True)), ACCURACY
    elif quantity in ("macro_f1", "matthews"):
        yield confusion_counts(gold, labels, known), MACRO_F1 if quantity == "macro_f1" else MATTHEWS
    elif quantity == "f1":
        for positive in known:
            items = ([{each} & {positive} for each in side] for side in (gold, labels))
            yield item_counts(*items), F1
    elif quantity == "micro_f1":
        # The micro F1 of relation classification leaves out one label, such as "no relation".
        for negative in known:
            items = ([{each} - {negative} for each in side] for side in (gold, labels))
            yield item_counts(*items), F1


def _of_label_sets(quantity: str, gold: Sequence[Any], labels: Sequence[Any]) -> Iterator[tuple[Rows, Score]]:
    if quantity == "micro_f1":
        yield item_counts(gold, labels), F1
    elif quantity == "accuracy":
        yield _column(float({*right} == {*found}) for right, found in zip(gold, labels, strict=True)), ACCURACY


def _of_tags(quantity: str, gold: Sequence[Any], tags: Sequence[Any]) -> Iterator[tuple[Rows, Score]]:
    if quantity == "entity_f1":
        spans = (
            [[(span.type, span.start, span.end) for span in spans_of(each)] for each in side] for side in (gold, tags)
        )
        yield item_counts(*spans), F1
    elif quantity == "accuracy":
        counts = [
            (sum(a == b for a, b in zip(right, found, strict=True)), len(right))
            for right, found in zip(gold, tags, strict=True)
        ]
        yield (
            np.array(counts, np.float64),
            OfMeans("accuracy over words", 2, lambda means: means[..., 0] / means[..., 1]),
        )


def _of_answers(quantity: str, gold: Sequence[Any], answers: Sequence[Any]) -> Iterator[tuple[Rows, Score]]:
    # For a question without an answer, "" is right.
    pairs = [(answer, texts or [""]) for answer, texts in zip(answers, gold, strict=True)]
    if quantity.endswith("exact"):
        yield _column(float(exact_match(*pair)) for pair in pairs), ACCURACY
    elif quantity.endswith("f1"):
        yield _column(f1(*pair) for pair in pairs), MEAN
        yield _column(f1_or_both_empty(*pair) for pair in pairs), MEAN


def _of_numbers(quantity: str, values: Rows) -> Iterator[tuple[Rows, Score]]:
    guess, gold = values.T
    if quantity == "mean_squared_error":
        yield ((guess - gold) ** 2)[:, None], MEAN
    elif quantity == "pearson":
        # Both models are shifted by the same value, so that differences of means keep their digits.
        x, y = guess - gold.mean(), gold - gold.mean()
        yield np.stack([x, y, x * x, y * y, x * y], axis=1), OfMeans("Pearson correlation", 5, _pearson)
    elif quantity == "spearman":
        yield values, lambda rows: spearman(rows[:, 0], rows[:, 1])


def _pearson(means: Rows) -> Rows:
    x, y, xx, yy, xy = np.moveaxis(means, -1, 0)
    spread = np.sqrt(np.clip(xx - x * x, 0.0, None) * np.clip(yy - y * y, 0.0, None))
    return np.asarray(np.divide(xy - x * y, spread, out=np.zeros_like(spread), where=spread > 0))


def _column(values: Iterator[float]) -> Rows:
    return np.array([*values], np.float64)[:, None]
