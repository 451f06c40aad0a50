"""Sequential tests: significance levels for studies that are tested several times while seeds are added."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import numpy as np

from bert_lightning.errors import InputError
from bert_lightning.studies.statistics.values import root, scipy_stats

_NODES = 160


def stopping_levels(
    seeds: Sequence[int], alpha: float = 0.05, rule: Literal["pocock", "obrien-fleming"] = "pocock"
) -> list[float]:
    """Return, for each look, the p-value below which a study may stop and call the arms different.

    A study that is tested after every few seeds and stops at p < 0.05 calls equal arms different too often: in 15 %
    of cases with five looks. With these levels, planned before the first run, the error rate is `alpha` over all
    looks together. Pocock's levels are the same at all looks. Those of O'Brien and Fleming are strict at the first
    looks, and close to `alpha` at the last. They are computed for a normal statistic, by integrating from look to
    look (Armitage et al. 1969), and are used as levels of the t test.

    Args:
        seeds: number of seeds per arm at each look, increasing; the last is the maximum.
        alpha: the level over all looks.
        rule: `pocock` or `obrien-fleming`.

    Raises:
        InputError: the numbers do not increase, alpha is not between 0 and 1, or the rule is unknown.

    >>> [round(level, 4) for level in stopping_levels([5, 10, 15])]
    [0.0221, 0.0221, 0.0221]
    >>> [round(level, 4) for level in stopping_levels([5, 10, 15], rule="obrien-fleming")]
    [0.0005, 0.0141, 0.0451]
    """
    if not seeds or seeds[0] < 1 or any(later <= earlier for earlier, later in pairwise(seeds)):
        raise InputError(f"the seeds of the looks are {list(seeds)}; they must increase, from at least 1")
    if not 0 < alpha < 1:
        raise InputError(f"alpha is {alpha}; it must be between 0 and 1")
    if rule not in ("pocock", "obrien-fleming"):
        raise InputError(f"rule is {rule!r}; known: pocock, obrien-fleming")
    times = np.array(seeds, np.float64) / seeds[-1]
    shape = np.ones(len(times)) if rule == "pocock" else times**-0.5
    constant = root(lambda c: _never_beyond(c * shape, times) - (1 - alpha), 1e-3, 20)
    return [float(2 * scipy_stats().norm.sf(bound)) for bound in constant * shape]


def _never_beyond(bounds: np.ndarray, times: np.ndarray) -> float:
    """Return the probability that a Brownian motion B has |B(t)| / sqrt(t) within its bound at all times."""
    points, weights = np.polynomial.legendre.leggauss(_NODES)
    norm = scipy_stats().norm
    place, mass, last = np.zeros(1), np.ones(1), 0.0
    for bound, time in zip(bounds, times, strict=True):
        limit, deviation = bound * time**0.5, (time - last) ** 0.5
        if time == times[-1]:
            inside = norm.cdf((limit - place) / deviation) - norm.cdf((-limit - place) / deviation)
            return float(mass @ inside)
        # The probability beyond 9 standard deviations is negligible.
        limit = min(limit, 9 * time**0.5)
        after = points * limit
        density = norm.pdf((after[None, :] - place[:, None]) / deviation) / deviation
        place, mass, last = after, (mass @ density) * weights * limit, time
    return float(mass.sum())
