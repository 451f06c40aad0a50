"""Checks of input values, and the import of scipy, which only the extra `studies` installs."""

from collections.abc import Callable
from types import ModuleType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bert_lightning.errors import InputError

# A difference below this fraction of the values is due to rounding.
ROUNDING = 1e-12


def scipy_stats() -> ModuleType:
    """Import `scipy.stats`, which takes half a second and is not always installed.

    Raises:
        InputError: scipy is not installed.
    """
    try:
        from scipy import stats
    except ImportError:
        raise InputError("intervals and tests need scipy: pip install 'bert_lightning[studies]'") from None
    return stats


def root(function: Callable[[float], float], low: float, high: float) -> float:
    """Return the root of a function between two bounds where its signs are opposite (Brent's method).

    Raises:
        InputError: scipy is not installed.
    """
    scipy_stats()
    from scipy.optimize import brentq

    return float(brentq(function, low, high, xtol=1e-12))


def finite(values: ArrayLike, name: str, dimensions: int = 1) -> NDArray[np.float64]:
    """Return the values as a float64 array.

    Raises:
        InputError: they have another number of dimensions, are empty, or are not all finite.
    """
    array = np.asarray(values, np.float64)
    if array.ndim != dimensions:
        raise InputError(f"{name} has the shape {array.shape}; it must have {dimensions} dimensions")
    if not array.size:
        raise InputError(f"{name} is empty")
    bad = int((~np.isfinite(array)).sum())
    if bad:
        raise InputError(f"{name} holds {bad} of {array.size} values that are not finite; leave failed runs out")
    return array


def require_level(level: float) -> None:
    """Check a confidence level.

    Raises:
        InputError: it is not between 0.5 and 1.
    """
    if not 0.5 < level < 1:
        raise InputError(f"level is {level}; it must be more than 0.5 and less than 1, such as 0.95")


def standard_error(values: NDArray[np.float64]) -> float:
    """Return the standard error of the mean of values (n,), not all equal, however large or small they are."""
    deviations = values - values.mean()
    # Squares of very large and very small values leave the range of float64.
    largest = float(np.abs(deviations).max())
    squares = float(((deviations / largest) ** 2).sum())
    return largest * (squares / (len(values) - 1) / len(values)) ** 0.5


def no_spread(values: NDArray[np.float64], scale: float) -> bool:
    """Return whether the values are equal except for rounding.

    Args:
        values: such as differences of scores.
        scale: the largest absolute value of the scores that they were computed from.
    """
    return bool(np.ptp(values) <= ROUNDING * scale)
