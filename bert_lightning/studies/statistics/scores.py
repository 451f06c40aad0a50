"""Scores of a set of examples, as functions of per-example counts."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bert_lightning.errors import InputError

Rows = NDArray[np.float64]


@dataclass(frozen=True)
class OfMeans:
    """A score that depends only on the means over examples of per-example counts.

    Such scores are resampled much faster than other functions of the examples. F1 is one of them: it depends on the
    mean numbers of true positives, false positives and false negatives.

    Attributes:
        name: name of the score, for a caption.
        columns: number of counts per example; None for a confusion matrix with any number of labels.
        of: function from means (..., columns) to scores (...).

    >>> F1(np.array([[1, 0, 1], [2, 1, 0]]))
    0.75
    """

    name: str
    columns: int | None
    of: Callable[[Rows], Rows]

    def __call__(self, rows: Rows) -> float:
        """Return the score of examples (examples, columns)."""
        return float(self.of(np.asarray(rows, np.float64).mean(axis=0)))


def _first(means: Rows) -> Rows:
    return np.asarray(means[..., 0])


def _f1(means: Rows) -> Rows:
    right, superfluous, missing = np.moveaxis(means, -1, 0)
    return _ratio(2 * right, 2 * right + superfluous + missing)


def _square(means: Rows) -> Rows:
    """Reshape cells (..., gold x predicted) into confusion matrices (..., gold, predicted)."""
    size = round(means.shape[-1] ** 0.5)
    return means.reshape(*means.shape[:-1], size, size)


def _macro_f1(means: Rows) -> Rows:
    matrix = _square(means)
    right = np.diagonal(matrix, axis1=-2, axis2=-1)
    return np.asarray(_ratio(2 * right, matrix.sum(axis=-1) + matrix.sum(axis=-2)).mean(axis=-1))


def _matthews(means: Rows) -> Rows:
    """Return Matthews' correlation of any number of classes (Gorodkin 2004)."""
    matrix = _square(means)
    gold, predicted = matrix.sum(axis=-1), matrix.sum(axis=-2)
    right, total = np.trace(matrix, axis1=-2, axis2=-1), matrix.sum(axis=(-2, -1))
    covariance = right * total - (gold * predicted).sum(axis=-1)
    spreads = (total**2 - (gold**2).sum(axis=-1)) * (total**2 - (predicted**2).sum(axis=-1))
    # If all predictions are equal, the spread is 0 except for rounding.
    return _ratio(covariance, np.sqrt(np.where(spreads > 1e-12 * total**4, spreads, 0.0)))


def _ratio(numerator: Rows, denominator: Rows) -> Rows:
    """Return the ratio, and 0 where the denominator is 0, as in the metrics of this package."""
    return np.divide(numerator, denominator, out=np.zeros(np.shape(denominator)), where=denominator > 0)


MEAN = OfMeans("mean", 1, _first)
"""Mean over examples of one number per example, such as the F1 of a question."""
ACCURACY = OfMeans("accuracy", 1, _first)
"""Accuracy, from 1 for each right and 0 for each wrong answer."""
F1 = OfMeans("F1", 3, _f1)
"""Micro-averaged F1, from the rows of `item_counts`."""
MACRO_F1 = OfMeans("macro F1", None, _macro_f1)
"""Mean over labels of the F1 of each label, from the rows of `confusion_counts`."""
MATTHEWS = OfMeans("Matthews correlation", None, _matthews)
"""Matthews' correlation, from the rows of `confusion_counts`."""


def item_counts(gold: Sequence[Iterable[Hashable]], predicted: Sequence[Iterable[Hashable]]) -> Rows:
    """Return the true positives, false positives and false negatives of each example, (examples, 3), for `F1`.

    Args:
        gold: gold items of each example, such as the spans of a sentence or the labels of a text.
        predicted: predicted items of each example.

    Raises:
        InputError: the lists have different lengths.

    >>> item_counts([{("PER", 0, 2)}, {("LOC", 1, 2)}], [{("PER", 0, 2), ("ORG", 3, 4)}, {}]).tolist()
    [[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    _same_length(gold, predicted)
    counts = []
    for items, found in zip(map(set, gold), map(set, predicted), strict=True):
        counts.append((len(items & found), len(found - items), len(items - found)))
    return np.array(counts, np.float64).reshape(-1, 3)


def confusion_counts(gold: Sequence[Hashable], predicted: Sequence[Hashable], labels: Sequence[Hashable]) -> Rows:
    """Return the confusion matrix of each example, flattened to (examples, labels x labels), with a single 1 per row.

    Args:
        gold: gold label of each example.
        predicted: predicted label of each example.
        labels: all labels.

    Raises:
        InputError: the lists have different lengths, or a label is unknown.

    >>> confusion_counts(["yes", "no"], ["yes", "yes"], ["no", "yes"]).tolist()
    [[0.0, 0.0, 0.0, 1.0], [0.0, 1.0, 0.0, 0.0]]
    """
    _same_length(gold, predicted)
    number = {label: place for place, label in enumerate(labels)}
    for label in (*gold, *predicted):
        if label not in number:
            raise InputError(f"the label {label!r} is not one of {list(labels)}")
    rows = np.zeros((len(gold), len(number) ** 2))
    for row, (right, found) in enumerate(zip(gold, predicted, strict=True)):
        rows[row, number[right] * len(number) + number[found]] = 1
    return rows


def as_rows(values: ArrayLike, name: str) -> Rows:
    """Return values (examples,) or (examples, columns) as rows of float64.

    Raises:
        InputError: the shape is wrong, there is no example, or a value is not finite.
    """
    rows = np.asarray(values, np.float64)
    rows = rows[:, None] if rows.ndim == 1 else rows
    if rows.ndim != 2 or not rows.size:
        raise InputError(
            f"{name} has the shape {rows.shape}; it must be (examples,) or (examples, columns), not empty"
        )
    if not np.isfinite(rows).all():
        bad = int((~np.isfinite(rows).all(axis=1)).sum())
        raise InputError(f"{name} holds values that are not finite in {bad} of {len(rows)} examples")
    return rows


def _same_length(gold: Sequence[object], predicted: Sequence[object]) -> None:
    if len(gold) != len(predicted):
        raise InputError(f"there are {len(gold)} gold answers and {len(predicted)} predictions")
