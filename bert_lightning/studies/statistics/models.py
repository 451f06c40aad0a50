"""Comparison of two fixed models, one run each, on the same examples."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bert_lightning.studies.statistics.results import Difference, Estimate
from bert_lightning.studies.statistics.scores import MEAN

Score = Callable[[NDArray[np.float64]], float]


def compare_models(
    ours: ArrayLike,
    baseline: ArrayLike,
    score: Score = MEAN,
    *,
    groups: Sequence[object] | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> Difference:
    """Compare two fixed models on the same examples by the test that suits what was recorded.

    Args:
        ours: one row per example, (examples,) or (examples, columns). 1 and 0 for right and wrong answers; a score such
            as the F1 of a question; or counts, of which `score` computes the metric.
        baseline: the same of the other model, in the same order.
        score: from rows (examples, columns) to the metric; `OfSums` is fast.
        groups: the document of each example, if examples of one document depend on each other.
        level: confidence level of the interval.
        seed: seed of the resampling's own generator.
    """
    raise NotImplementedError


def mcnemar(ours: ArrayLike, baseline: ArrayLike, level: float = 0.95) -> Difference:
    """Compare the accuracy of two fixed models by McNemar's exact test, from right (1) and wrong (0) answers."""
    raise NotImplementedError


def approximate_randomisation(
    ours: ArrayLike,
    baseline: ArrayLike,
    score: Score = MEAN,
    *,
    groups: Sequence[object] | None = None,
    resamples: int = 10_000,
    seed: int = 0,
) -> Difference:
    """Test the difference of any score between two fixed models: exchange their outputs at random."""
    raise NotImplementedError


def bootstrap_examples(
    ours: ArrayLike,
    baseline: ArrayLike | None = None,
    score: Score = MEAN,
    *,
    groups: Sequence[object] | None = None,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Estimate:
    """Return a score of one model, or its difference between two, with the BCa interval over resampled examples."""
    raise NotImplementedError
