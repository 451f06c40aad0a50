"""Comparison of procedures: runs with several seeds per arm."""

from collections.abc import Mapping, Sequence

from bert_lightning.studies.statistics.results import Difference, Estimate


def mean_interval(values: Sequence[float], level: float = 0.95) -> Estimate:
    """Return the mean of one arm's scores with its t interval."""
    raise NotImplementedError


def compare_seeds(
    ours: Mapping[int, float],
    baseline: Mapping[int, float],
    level: float = 0.95,
    equivalence: float | None = None,
) -> Difference:
    """Compare two arms, each a mapping from seed to score: by a paired t test if the seeds are the same, else Welch's."""
    raise NotImplementedError


def compare_tasks(
    ours: Mapping[str, Mapping[int, float]],
    baseline: Mapping[str, Mapping[int, float]],
    level: float = 0.95,
    equivalence: float | None = None,
) -> Difference:
    """Compare two arms over several tasks (task -> seed -> score): by their average over tasks for each seed."""
    raise NotImplementedError
