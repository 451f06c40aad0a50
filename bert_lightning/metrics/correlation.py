"""Correlations of two series, in closed form and float64."""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def pearson(x: ArrayLike, y: ArrayLike) -> float:
    """Return the linear correlation of x (n,) and y (n,), -1 to 1.

    It is not defined if either is constant. Then it counts as 0, so that a collapsed run counts as one that learned
    nothing. It is nan if a value is not finite.

    Raises:
        ValueError: the arrays do not have one shape (n,).

    >>> pearson([1, 2, 3], [2, 4, 6])
    1.0
    """
    first, second = _series(x, y)
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        return float("nan")
    # Compare the values, not their deviations: the mean of equal values may be off by a bit.
    if not len(first) or np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    return float(np.clip(_direction(first) @ _direction(second), -1, 1))


def spearman(x: ArrayLike, y: ArrayLike) -> float:
    """Return the correlation of the ranks of x (n,) and y (n,), -1 to 1; equal values share the mean of their ranks.

    0 and nan have the same meaning as in `pearson`.

    Raises:
        ValueError: as `pearson`.
    """
    first, second = _series(x, y)
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        return float("nan")
    return pearson(average_ranks(first), average_ranks(second))


def average_ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the ranks (n,) from 1; equal values share the mean of their ranks."""
    _, distinct, counts = np.unique(values, return_inverse=True, return_counts=True)
    last: NDArray[np.float64] = np.cumsum(counts, dtype=np.float64)
    return (last - (counts - 1) / 2)[distinct]


def _series(x: ArrayLike, y: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    first, second = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(f"x is {first.shape}, y {second.shape}; both must be (n,)")
    return first, second


def _direction(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the deviations from the mean as a vector of length 1."""
    # Scale first, because the squares of very large and very small values leave the range of float64.
    centred = values / np.abs(values).max()
    centred = centred - centred.mean()
    centred = centred / np.abs(centred).max()
    return np.asarray(centred / np.linalg.norm(centred))
