"""Results of an evaluation: the output per sequence, and a report for people."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

Split = TypeVar("Split")
Output = TypeVar("Output")


@dataclass(frozen=True)
class Report:
    """Tables that a person reads after an evaluation.

    Attributes:
        text: tables for a terminal.
        tables: name -> columns and rows.
        confusion: labels and (L, L) counts, gold by predicted, if there are classes.
    """

    text: str
    tables: dict[str, tuple[Sequence[str], Sequence[Sequence[object]]]] = field(default_factory=dict)
    confusion: tuple[Sequence[str], NDArray[np.int64]] | None = None


@dataclass(frozen=True)
class Evaluation(Generic[Split, Output]):
    """A split and the model's output for each of its sequences."""

    split: Split
    outputs: list[Output]


def rounded(value: float) -> float:
    """Round a probability or score for writing.

    >>> rounded(2 / 3)
    0.666667
    """
    return round(float(value), 6)
