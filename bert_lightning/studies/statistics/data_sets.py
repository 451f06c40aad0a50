"""Comparison of arms over many data sets, which are the sample (Demsar 2006)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from numpy.typing import ArrayLike

from bert_lightning.studies.statistics.results import Difference


@dataclass(frozen=True)
class SignedRanks(Difference):
    """The result of Wilcoxon's signed ranks test."""

    positive: float = 0.0
    negative: float = 0.0


@dataclass(frozen=True)
class FriedmanTest:
    """The result of Friedman's test with Iman and Davenport's F."""

    mean_ranks: tuple[float, ...]
    chi_square: float
    f: float
    p: float
    pairs: dict[tuple[int, int], float]


def signed_ranks(differences: Sequence[float]) -> SignedRanks:
    """Compare two arms over data sets, by Wilcoxon's signed ranks of the differences."""
    raise NotImplementedError


def friedman(scores: ArrayLike) -> FriedmanTest:
    """Compare arms over data sets, from scores (data sets, arms), more is better."""
    raise NotImplementedError


def critical_distance(
    num_arms: int, num_data_sets: int, level: float = 0.95, test: Literal["nemenyi", "bonferroni-dunn"] = "nemenyi"
) -> float:
    """Return by how much the mean ranks of two arms must differ."""
    raise NotImplementedError
