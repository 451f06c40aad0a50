"""A sampler for optuna whose draws are spread evenly: the Halton sequence with a random shift."""

import math
from typing import TYPE_CHECKING, Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from scipy.stats import qmc

from bert_lightning.data.loading.randomness import derive_key

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial


class HaltonSampler(BaseSampler):
    """The sampler of one trial, which depends only on the seed of the search and the number of the trial.

    Halton 1960, "On the efficiency of certain quasi-random sequences of points": the k-th key of trial n is the
    fraction whose digits in base p_k, the k-th prime number, are those of n in reverse order. The seed shifts each
    key by a random number, modulo 1 (Cranley and Patterson 1976).

    Args:
        seed: the seed of the search.
        number: the number of the trial.
    """

    def __init__(self, seed: int, number: int) -> None:
        self._seed, self._number = seed, number

    def infer_relative_search_space(self, study: "Study", trial: "FrozenTrial") -> dict[str, BaseDistribution]:
        """Return nothing: each key is drawn by itself."""
        return {}

    def sample_relative(
        self, study: "Study", trial: "FrozenTrial", search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return nothing: each key is drawn by itself."""
        return {}

    def sample_independent(
        self, study: "Study", trial: "FrozenTrial", param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return the value of the key that is drawn next in the trial."""
        place = len(trial.params)
        sequence = qmc.Halton(place + 1, scramble=False)
        shift = derive_key("halton", self._seed, place) / 2**64
        point = float(sequence.fast_forward(self._number).random()[0, place])
        return value_at((point + shift) % 1.0, param_distribution)


def value_at(fraction: float, distribution: BaseDistribution) -> Any:
    """Return the quantile of a distribution at a fraction, which is at least 0 and less than 1.

    >>> value_at(0.5, FloatDistribution(0.0, 3.0)), value_at(0.99, IntDistribution(1, 8))
    (1.5, 8)
    >>> value_at(0.7, CategoricalDistribution(["a", "b", "c"])), value_at(0.4, FloatDistribution(0, 1, step=0.5))
    ('c', 0.5)
    """
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[int(fraction * len(distribution.choices))]
    assert isinstance(distribution, FloatDistribution | IntDistribution), "optuna has no other kind"
    low, high, step = distribution.low, distribution.high, distribution.step
    if distribution.log:
        # Each whole number has the interval of half a unit around it.
        margin = 0.5 if isinstance(distribution, IntDistribution) else 0.0
        value = math.exp((1 - fraction) * math.log(low - margin) + fraction * math.log(high + margin))
    elif step is not None:
        value = low + step * int(fraction * (round((high - low) / step) + 1))
    else:
        value = low + fraction * (high - low)
    value = min(max(value, low), high)
    return round(value) if isinstance(distribution, IntDistribution) else value
