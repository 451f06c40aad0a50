"""Intervals over seeds and examples at once."""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bert_lightning.studies.statistics.results import Difference


def crossed_interval(differences: ArrayLike, level: float = 0.95) -> Difference:
    """Return the mean difference (seeds, examples) with an interval over seeds and examples."""
    raise NotImplementedError


def multi_bootstrap(
    ours: ArrayLike,
    baseline: ArrayLike,
    score: Callable[[NDArray[np.float64]], float],
    *,
    paired: bool = True,
    level: float = 0.95,
    resamples: int = 2_000,
    seed: int = 0,
) -> Difference:
    """Resample seeds and examples at once: rows of outputs (seeds, examples, columns)."""
    raise NotImplementedError
