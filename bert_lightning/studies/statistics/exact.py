"""Exact tests for few runs, which count all ways in which chance could have assigned the same scores."""

from itertools import chain, combinations
from math import comb

import numpy as np
from numpy.typing import NDArray

from bert_lightning.studies.statistics.values import ROUNDING

# Beyond these numbers, counting takes seconds, and the t test gives nearly the same p-value.
_MOST_FLIPPED = 40
_MOST_ARRANGEMENTS = 200_000


def sign_flips(differences: NDArray[np.float64]) -> float | None:
    """Return the two-sided p-value of the sign-flip test (Fisher 1935), or None for more than 40 differences.

    If the arms do not differ, each difference could as well have the other sign. The p-value is the share of all 2^n
    assignments of signs whose sum is at least as far from 0 as the observed sum. The differences are split into
    halves, and the sums of one half are sorted, so that counting takes about n 2^(n/2) instead of 2^n operations.

    Args:
        differences: one per pair, (n,).

    >>> sign_flips(np.array([1.0, 2.0, 3.0]))
    0.25
    """
    num = len(differences)
    if num > _MOST_FLIPPED:
        return None
    first, second = _signed_sums(differences[: num // 2]), np.sort(_signed_sums(differences[num // 2 :]))
    # Equal sums must count as equal, although floating point rounds them differently.
    seen = abs(float(differences.sum())) - ROUNDING * float(np.abs(differences).sum())
    above = len(second) - np.searchsorted(second, seen - first, side="left")
    below = np.searchsorted(second, -seen - first, side="right")
    if seen <= 0:
        return 1.0
    return float(above.sum() + below.sum()) / 2.0**num


def least_sign_flip_p(num: int) -> float:
    """Return the smallest p-value that the sign-flip test of `num` differences can have."""
    return min(1.0, 2.0 ** (1 - num))


def permutations(ours: NDArray[np.float64], baseline: NDArray[np.float64]) -> float | None:
    """Return the two-sided p-value of the permutation test, or None if there are too many arrangements to count.

    If the arms do not differ, each run could as well belong to the other arm. An arrangement assigns n of the n + m
    runs to ours. The p-value is twice the smaller of two shares: that of arrangements whose difference is at least
    the observed one, and that of those whose difference is at most the observed one.

    Args:
        ours: scores of one arm, (n,).
        baseline: scores of the other arm, (m,).

    >>> permutations(np.array([4.0, 5.0, 6.0]), np.array([1.0, 2.0, 3.0]))
    0.1
    """
    num = comb(len(ours) + len(baseline), len(ours))
    if num > _MOST_ARRANGEMENTS:
        return None
    # The difference of means increases with the sum of our scores, because the sum of all scores is fixed.
    both = np.concatenate([ours, baseline])
    chosen = np.fromiter(chain.from_iterable(combinations(range(len(both)), len(ours))), np.int64, num * len(ours))
    sums = both[chosen.reshape(num, -1)].sum(axis=1)
    rounding = ROUNDING * float(np.abs(both).sum())
    seen = ours.sum()
    fewer = min(np.sum(sums >= seen - rounding), np.sum(sums <= seen + rounding))
    return min(1.0, 2.0 * float(fewer) / num)


def least_permutation_p(num_ours: int, num_baseline: int) -> float:
    """Return the smallest p-value that the permutation test of these numbers of runs can have."""
    return min(1.0, 2.0 / comb(num_ours + num_baseline, num_ours))


def _signed_sums(values: NDArray[np.float64]) -> NDArray[np.float64]:
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums + value, sums - value])
    return sums
