"""Exact tests of few runs: every way in which chance could have dealt the same numbers is counted."""

from itertools import chain, combinations
from math import comb

import numpy as np
from numpy.typing import NDArray

from bert_lightning.studies.statistics.values import ROUNDING

# Beyond these, counting takes seconds, and the t test says the same.
_MOST_FLIPPED = 40
_MOST_ARRANGEMENTS = 200_000


def sign_flips(differences: NDArray[np.float64]) -> float | None:
    """Return the two-sided p-value of the sign-flip test (Fisher 1935), or None for more than 40 differences.

    If the arms do not differ, each difference might as well have had the other sign. The p-value is the share of all
    2^n signs whose sum is at least as far from 0 as the one that was seen. The sums of either half of the differences
    are sorted, and so 2^n sums are counted in the time of 2^(n/2).

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
    """Return the least p-value that the sign-flip test of so many differences can have."""
    return min(1.0, 2.0 ** (1 - num))


def permutations(ours: NDArray[np.float64], baseline: NDArray[np.float64]) -> float | None:
    """Return the two-sided p-value of the permutation test, or None if there are too many arrangements to count.

    If the arms do not differ, each run might as well have belonged to the other one. The p-value is twice the smaller
    of the shares of arrangements whose difference is at least, or at most, the one that was seen.

    Args:
        ours: scores of one arm, (n,).
        baseline: scores of the other arm, (m,).

    >>> permutations(np.array([4.0, 5.0, 6.0]), np.array([1.0, 2.0, 3.0]))
    0.1
    """
    num = comb(len(ours) + len(baseline), len(ours))
    if num > _MOST_ARRANGEMENTS:
        return None
    # The difference of means grows with the sum of our scores, because the sum of all scores stays.
    both = np.concatenate([ours, baseline])
    chosen = np.fromiter(chain.from_iterable(combinations(range(len(both)), len(ours))), np.int64, num * len(ours))
    sums = both[chosen.reshape(num, -1)].sum(axis=1)
    rounding = ROUNDING * float(np.abs(both).sum())
    seen = ours.sum()
    fewer = min(np.sum(sums >= seen - rounding), np.sum(sums <= seen + rounding))
    return min(1.0, 2.0 * float(fewer) / num)


def least_permutation_p(num_ours: int, num_baseline: int) -> float:
    """Return the least p-value that the permutation test of so many runs can have."""
    return min(1.0, 2.0 / comb(num_ours + num_baseline, num_ours))


def _signed_sums(values: NDArray[np.float64]) -> NDArray[np.float64]:
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums + value, sums - value])
    return sums
