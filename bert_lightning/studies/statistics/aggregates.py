"""Aggregates of scores over tasks and runs that are robust to outliers (Agarwal et al. 2021)."""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bert_lightning.errors import InputError
from bert_lightning.studies.statistics.results import Estimate
from bert_lightning.studies.statistics.values import finite, require_level, root, scipy_stats

_FEW = 20
# Bouthillier et al. 2021, section 4.2.
_MEANINGFUL = 0.75


def interquartile_mean(scores: ArrayLike, level: float = 0.95, resamples: int = 10_000, seed: int = 0) -> Estimate:
    """Return the mean of the middle half of all scores, with a bootstrap interval stratified by task.

    The lowest and the highest quarter of the scores (rounded down) do not count. Runs are resampled within each task,
    because the tasks are fixed.

    Args:
        scores: score of each run on each task, (runs, tasks), or (runs,) of one task.
        level: confidence level.
        resamples: number of resamples.
        seed: seed of the bootstrap's own generator.

    Raises:
        InputError: the shape is wrong, a score is not finite, or there are fewer than 100 resamples.

    >>> interquartile_mean(range(8)).value
    3.5
    """
    require_level(level)
    values = _by_task(scores, "scores")

    def middle(drawn: NDArray[np.float64]) -> NDArray[np.float64]:
        ordered = np.sort(drawn.reshape(len(drawn), -1), axis=1)
        cut = ordered.shape[1] // 4
        return np.asarray(ordered[:, cut : ordered.shape[1] - cut].mean(axis=1))

    value = float(middle(values[None])[0])
    interval = _stratified(middle, [values], level, resamples, seed)
    return Estimate(value, interval, level, values.size, "bootstrap stratified by task", _notes(values, interval))


def probability_of_improvement(
    ours: ArrayLike, baseline: ArrayLike, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Estimate:
    """Return the probability that a run of ours scores better than a run of the baseline.

    It is the share of all pairs of runs in which ours is better; ties count half (Mann and Whitney's U). On one task,
    the interval is that of Newcombe (2006, method 5), which is valid even if all runs of one arm are better. On
    several tasks, the value is the mean over tasks, with a bootstrap interval stratified by task (Agarwal et al.
    2021).

    Args:
        ours: score of each run, (runs,), or on each task, (runs, tasks). More is better.
        baseline: the same of the other arm, with any number of runs.
        level: confidence level.
        resamples: number of resamples, with several tasks.
        seed: seed of the bootstrap's own generator, with several tasks.

    Raises:
        InputError: the arms have different tasks, a score is not finite, or there are fewer than 100 resamples.

    >>> found = probability_of_improvement([0.71, 0.74, 0.73], [0.70, 0.72, 0.70])
    >>> f"{found.value:.3f} ({found.interval[0]:.2f}, {found.interval[1]:.2f})"
    '0.889 (0.40, 0.99)'
    """
    require_level(level)
    arms = [_by_task(ours, "ours"), _by_task(baseline, "the baseline")]
    if arms[0].shape[1] != arms[1].shape[1]:
        raise InputError(f"ours has {arms[0].shape[1]} tasks, the baseline {arms[1].shape[1]}")

    def share(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
        pairs = np.sign(first[:, :, None] - second[:, None, :])
        return np.asarray((pairs.mean(axis=(1, 2, 3)) + 1) / 2)

    value = float(share(*(arm[None] for arm in arms))[0])
    num = min(map(len, arms))
    if arms[0].shape[1] == 1:
        interval: tuple[float, float] | None = _newcombe(value, len(arms[0]), len(arms[1]), level)
        method, notes = "Newcombe's interval", []
    else:
        interval = _stratified(share, arms, level, resamples, seed)
        method, notes = "bootstrap stratified by task", list(_notes(min(arms, key=len), interval))
    if interval is not None and interval[0] > 0.5:
        size = "and may be meaningful" if interval[1] > _MEANINGFUL else "but not meaningful"
        notes.append(f"The improvement is significant (above 0.5) {size} (0.75; Bouthillier et al. 2021).")
    return Estimate(value, interval, level, num, method, tuple(notes))


def _by_task(scores: ArrayLike, name: str) -> NDArray[np.float64]:
    values = np.asarray(scores, np.float64)
    return finite(values[:, None] if values.ndim == 1 else values, name, 2)


def _stratified(
    statistic: Callable[..., NDArray[np.float64]],
    arms: list[NDArray[np.float64]],
    level: float,
    resamples: int,
    seed: int,
) -> tuple[float, float] | None:
    """Return the percentile interval of a statistic over resampled runs of each task and arm; None if constant."""
    if resamples < 100:
        raise InputError(f"resamples is {resamples}; it must be at least 100")
    generator = np.random.default_rng(seed)
    values = []
    for start in range(0, resamples, 500):
        num = min(500, resamples - start)
        drawn = [
            np.take_along_axis(arm[None], generator.integers(len(arm), size=(num, *arm.shape)), 1) for arm in arms
        ]
        values.append(statistic(*drawn))
    every = np.concatenate(values)
    if np.ptp(every) == 0:
        return None
    low, high = np.quantile(every, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _notes(values: NDArray[np.float64], interval: tuple[float, float] | None) -> tuple[str, ...]:
    if interval is None:
        return ("All resamples give the same value, so there is no interval.",)
    if values.size < _FEW:
        return (f"A bootstrap over {values.size} scores gives an interval that is too narrow.",)
    return ()


def _newcombe(value: float, num_ours: int, num_baseline: int, level: float) -> tuple[float, float]:
    """Return the interval of the values from which the estimate is at most z standard errors away (method 5)."""
    z = float(scipy_stats().norm.ppf((1 + level) / 2))
    half = (num_ours + num_baseline) / 2 - 1

    def beyond(true: float) -> float:
        variance = true * (1 - true) * (1 + half * ((1 - true) / (2 - true) + true / (1 + true)))
        return (value - true) ** 2 - z**2 * variance / (num_ours * num_baseline)

    # At 0 and 1 the variance is 0, which solves the equation but is not a bound.
    low = 0.0 if value == 0 else root(beyond, 0.0, min(value, 1 - 1e-12))
    high = 1.0 if value == 1 else root(beyond, max(value, 1e-12), 1.0)
    return low, high
