"""Scores of a set of examples, as functions of what was counted for each example."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Rows = NDArray[np.float64]


@dataclass(frozen=True)
class OfSums:
    """A score that depends on the sums over examples alone, which is resampled much faster than any other function.

    Attributes:
        name: name of the score, for a caption.
        of: from sums (..., columns) to scores (...).
    """

    name: str
    of: Callable[[Rows], Rows]

    def __call__(self, rows: Rows) -> float:
        """Return the score of rows (examples, columns)."""
        return float(self.of(rows.sum(axis=0)))


def _nothing(sums: Rows) -> Rows:
    raise NotImplementedError


MEAN = OfSums("mean", _nothing)
ACCURACY = OfSums("accuracy", _nothing)
F1 = OfSums("F1", _nothing)
MATTHEWS = OfSums("Matthews", _nothing)


def confusion_counts(gold: Sequence[object], predicted: Sequence[object], labels: Sequence[object]) -> Rows:
    """Return one row per example (examples, labels x labels): which cell of the confusion matrix it falls in."""
    raise NotImplementedError


def as_rows(values: ArrayLike, name: str) -> Rows:
    """Return values (examples,) or (examples, columns) as rows of float64."""
    raise NotImplementedError
