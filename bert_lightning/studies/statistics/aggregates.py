"""Aggregates of scores over tasks and runs that outliers hardly change (Agarwal et al. 2021)."""

from numpy.typing import ArrayLike

from bert_lightning.studies.statistics.results import Estimate


def interquartile_mean(scores: ArrayLike, level: float = 0.95, resamples: int = 10_000, seed: int = 0) -> Estimate:
    """Return the mean of the middle half of all scores (runs, tasks), with a bootstrap interval stratified by task."""
    raise NotImplementedError


def probability_of_improvement(ours: ArrayLike, baseline: ArrayLike, level: float = 0.95) -> Estimate:
    """Return how often a run of ours scores better than a run of the baseline, from the scores of both."""
    raise NotImplementedError
