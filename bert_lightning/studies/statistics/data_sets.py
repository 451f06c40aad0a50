"""Comparison of arms over many data sets, which count as a sample of all data sets (Demsar 2006)."""

from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from bert_lightning.errors import InputError
from bert_lightning.studies.statistics.corrections import holm
from bert_lightning.studies.statistics.exact import least_sign_flip_p, sign_flips
from bert_lightning.studies.statistics.values import finite, require_level, scipy_stats

_FEW, _ENOUGH = 6, 10


@dataclass(frozen=True)
class SignedRanks:
    """The result of Wilcoxon's signed ranks test.

    Attributes:
        positive: sum of the ranks of the data sets on which ours is better (R+).
        negative: the same for the baseline (R-). Half of the ranks of data sets without a difference go to each sum.
        p: two-sided p-value, exact for up to 40 data sets, also with ties.
        z: the normal approximation of the smaller sum, corrected for ties; None if all differences are 0.
        num: number of data sets.
        notes: whole sentences about what these data cannot show.
    """

    positive: float
    negative: float
    p: float
    z: float | None
    num: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class FriedmanTest:
    """The result of Friedman's test with Iman and Davenport's F.

    Attributes:
        mean_ranks: mean rank of each arm over the data sets, 1 is best.
        chi_square: Friedman's statistic.
        f: Iman and Davenport's statistic, which is less conservative; infinite if all data sets give the same ranks.
        degrees: degrees of freedom of F.
        p: p-value of F, for the hypothesis that all arms are equal.
        pairs: indices of two arms -> p-value by signed ranks, adjusted by Holm's method.
        notes: whole sentences about what these data cannot show.
    """

    mean_ranks: tuple[float, ...]
    chi_square: float
    f: float
    degrees: tuple[int, int]
    p: float
    pairs: dict[tuple[int, int], float]
    notes: tuple[str, ...] = ()


def signed_ranks(differences: ArrayLike) -> SignedRanks:
    """Compare two arms over data sets by Wilcoxon's signed ranks (Demsar 2006, section 3.1.3).

    Args:
        differences: score of ours minus that of the baseline, (data sets,), such as differences of means over seeds.

    Raises:
        InputError: there is no difference, or one is not finite.

    >>> signed_ranks([0.02, 0.01, 0.03, -0.005, 0.04, 0.015]).p
    0.0625
    """
    values = finite(differences, "differences")
    num = len(values)
    # Scores are at most 100, so differences that agree to 1e-10 differ only by rounding.
    values = np.round(values, 10)
    stats = scipy_stats()
    ranks = stats.rankdata(np.abs(values))
    zeros = ranks[values == 0].sum() / 2
    positive, negative = float(ranks[values > 0].sum() + zeros), float(ranks[values < 0].sum() + zeros)
    signed = np.sign(values) * ranks
    differing = int(np.count_nonzero(values))
    notes = []
    if not differing:
        return SignedRanks(positive, negative, 1.0, None, num, ("All differences are 0.",))
    z = -abs(positive - negative) / float(np.sqrt((ranks**2).sum()))
    exact = sign_flips(signed)
    if num < _ENOUGH:
        least = least_sign_flip_p(differing)
        cannot = f" cannot reach p 0.05 (the least p is {least:.3g}); {_FEW} can" if least > 0.05 else " are few"
        notes.append(f"{differing} data sets that differ{cannot}; Demsar asks for {_ENOUGH}.")
    p = float(2 * stats.norm.cdf(z)) if exact is None else exact
    return SignedRanks(positive, negative, p, z, num, tuple(notes))


def friedman(scores: ArrayLike, *, ties: bool = True) -> FriedmanTest:
    """Compare arms over data sets by Friedman's test with Iman and Davenport's F, then pairs by signed ranks.

    F = (N - 1) chi^2 / (N (k - 1) - chi^2), with k - 1 and (k - 1)(N - 1) degrees of freedom. Pairs are compared by
    signed ranks with Holm's correction, because Nemenyi's test of two arms depends on the other arms in the table
    (Benavoli et al. 2016).

    Args:
        scores: score of each arm on each data set, (data sets, arms), more is better.
        ties: whether to correct chi-square for equal ranks, as scipy and R do, but not Demsar's formula.

    Raises:
        InputError: there are fewer than two data sets or three arms, or a score is not finite.
    """
    values = np.round(finite(scores, "scores", 2), 10)
    num, arms = values.shape
    if num < 2 or arms < 3:
        raise InputError(f"scores has {num} data sets and {arms} arms; at least 2 and 3 are needed")
    stats = scipy_stats()
    ranks = stats.rankdata(-values, axis=1)
    means = ranks.mean(axis=0)
    chi_square = 12 * num / (arms * (arms + 1)) * float((means**2).sum() - arms * (arms + 1) ** 2 / 4)
    if ties:
        # Without ties, the squared ranks of a row deviate from their mean by arms (arms^2 - 1) / 12 in total.
        chi_square *= arms * (arms**2 - 1) / 12 * num / max(float(((ranks - (arms + 1) / 2) ** 2).sum()), 1e-300)
    rest = num * (arms - 1) - chi_square
    f = (num - 1) * chi_square / rest if rest > 1e-9 else float("inf")
    degrees = arms - 1, (arms - 1) * (num - 1)
    pairs = list(combinations(range(arms), 2))
    tested = [signed_ranks(values[:, first] - values[:, second]) for first, second in pairs]
    adjusted = [p for p in holm([each.p for each in tested]) if p is not None]
    notes = dict.fromkeys(note for each in tested for note in each.notes if "data sets" in note)
    return FriedmanTest(
        mean_ranks=tuple(means.tolist()),
        chi_square=chi_square,
        f=f,
        degrees=degrees,
        p=float(stats.f.sf(f, *degrees)),
        pairs=dict(zip(pairs, adjusted, strict=True)),
        notes=tuple(notes),
    )


def critical_distance(
    num_arms: int, num_data_sets: int, level: float = 0.95, test: Literal["nemenyi", "bonferroni-dunn"] = "nemenyi"
) -> float:
    """Return the critical difference of the mean ranks of two arms, for critical difference diagrams (Demsar 2006).

    It is q sqrt(k (k + 1) / (6 N)). For all pairs (Nemenyi), q is the quantile of the studentized range divided by
    sqrt(2). For all arms against one baseline (Bonferroni-Dunn), it is the two-sided normal quantile at
    alpha / (k - 1). `friedman` gives p-values of pairs that do not depend on the other arms.

    Args:
        num_arms: number of arms, k.
        num_data_sets: number of data sets, N.
        level: 1 - alpha.
        test: which comparisons are made.

    Raises:
        InputError: there are fewer than two arms or data sets, or the test is unknown.
    """
    require_level(level)
    if num_arms < 2 or num_data_sets < 2:
        raise InputError(f"there are {num_arms} arms and {num_data_sets} data sets; at least 2 of each are needed")
    stats = scipy_stats()
    if test == "nemenyi":
        # scipy treats infinite degrees of freedom as a very large number.
        q = float(stats.studentized_range.ppf(level, num_arms, np.inf)) / 2**0.5
    elif test == "bonferroni-dunn":
        q = float(stats.norm.isf((1 - level) / (2 * (num_arms - 1))))
    else:
        raise InputError(f"test is {test!r}; known: nemenyi, bonferroni-dunn")
    return q * float(num_arms * (num_arms + 1) / (6 * num_data_sets)) ** 0.5
