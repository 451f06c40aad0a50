"""How far the values of two methods agree on the words of one example."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bert_lightning.errors import InputError
from bert_lightning.metrics.correlation import spearman


class Agreement(NamedTuple):
    """The agreement of two methods on one example.

    Attributes:
        signed: Spearman's correlation of the values; NaN if all values of a method are equal.
        size: Spearman's correlation of their sizes, without signs.
        overlap: the share of words that both methods have among their `top` largest ones in size.
        chance: the overlap that a random order has on average.
    """

    signed: float
    size: float
    overlap: float
    chance: float


def agreement(ours: ArrayLike, baseline: ArrayLike, top: int = 5) -> Agreement | None:
    """Compare the values that two methods give the words of an example.

    Attention and rollout have no signs, so only `size` and `overlap` compare them with other methods.

    Args:
        ours: (words,) values; NaN for words that a score does not depend on, which are left out.
        baseline: (words,) values of the other method.
        top: how many of the largest values count for the overlap, at most half of the words.

    Returns:
        The agreement; None if fewer than four words are left, because the order of so few says nothing.

    Raises:
        InputError: the methods have values of different words, or `top` is less than 1.

    >>> found = agreement([0.5, -0.3, 0.0, 0.2], [0.4, -0.2, 0.1, 0.3], top=2)
    >>> round(found.signed, 3), round(found.size, 3), found.overlap, found.chance
    (1.0, 0.8, 0.5, 0.5)
    """
    one, other = (np.asarray(values, dtype=np.float64) for values in (ours, baseline))
    if one.shape != other.shape or not np.array_equal(np.isnan(one), np.isnan(other)):
        raise InputError("the two methods have values of different words")
    if top < 1:
        raise InputError(f"top is {top}; it must be at least 1")
    is_read = ~np.isnan(one)
    one, other = one[is_read], other[is_read]
    if len(one) < 4:
        return None
    top = min(top, len(one) // 2)
    shared = _largest(one, top) & _largest(other, top)
    return Agreement(_correlation(one, other), _correlation(abs(one), abs(other)), len(shared) / top, top / len(one))


def _largest(values: NDArray[np.float64], top: int) -> set[int]:
    """Return the numbers of the values that are largest in size; of equal ones, the first."""
    return {*np.argsort(-abs(values), kind="stable")[:top].tolist()}


def _correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return float("nan")
    return float(spearman(one, other))
