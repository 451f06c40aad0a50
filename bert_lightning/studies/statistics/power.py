"""The power of the t test: how many seeds are needed to find a difference, by the noncentral t distribution."""

import numpy as np

from bert_lightning.errors import InputError
from bert_lightning.studies.statistics.values import require_level, root, scipy_stats

# Above this number of seeds, the t distribution is replaced by the normal distribution.
_MANY = 100_000


def power_of_t(
    num_seeds: float, difference: float, deviation: float, *, paired: bool = True, alpha: float = 0.05
) -> float:
    """Return the probability that the two-sided t test finds a difference (p below `alpha`).

    Args:
        num_seeds: seeds per arm, at least 2.
        difference: the true difference of means.
        deviation: true standard deviation: of the differences of pairs if `paired`, otherwise of the runs of an arm.
        paired: whether both arms have the same seeds.
        alpha: level of the test.

    Raises:
        InputError: a value is out of its range.

    >>> round(power_of_t(20, 1.0, 1.0, paired=False), 4)
    0.869
    """
    if not num_seeds >= 2:
        raise InputError(f"the number of seeds is {num_seeds}; it must be at least 2")
    effect = _effect(difference, deviation)
    _require_share(alpha, "alpha")
    stats = scipy_stats()
    degrees, centre = (
        (num_seeds - 1, effect * num_seeds**0.5) if paired else (2 * num_seeds - 2, effect * (num_seeds / 2) ** 0.5)
    )
    bound = float(stats.t.isf(alpha / 2, degrees))
    right, wrong = float(stats.nct.sf(bound, degrees, centre)), float(stats.nct.cdf(-bound, degrees, centre))
    # scipy returns nan for some tails with the wrong sign. These are all below 1e-6.
    return right + wrong if np.isfinite(wrong) else right


def seeds_needed(
    difference: float, deviation: float, *, paired: bool = True, power: float = 0.8, alpha: float = 0.05
) -> int:
    """Return the smallest number of seeds per arm with which the two-sided t test finds a difference.

    A standard deviation from few runs is itself uncertain: compute the number for both ends of `deviation_interval`.
    Numbers above 100,000 are computed with the normal distribution.

    Args:
        difference: the true difference of means.
        deviation: as in `power_of_t`.
        paired: as in `power_of_t`.
        power: the probability that the test finds the difference.
        alpha: level of the test.

    Raises:
        InputError: a value is out of its range.

    >>> seeds_needed(1.0, 1.0), seeds_needed(1.0, 1.0, paired=False)
    (10, 17)
    """
    effect = _effect(difference, deviation)
    _require_share(power, "power")
    _require_share(alpha, "alpha")
    norm = scipy_stats().norm
    rough = (1 if paired else 2) * (float(norm.isf(alpha / 2) + norm.ppf(power)) / effect) ** 2
    if rough > _MANY:
        return int(np.ceil(rough))

    def enough(num: int) -> bool:
        return power_of_t(num, effect, 1.0, paired=paired, alpha=alpha) >= power

    least, most = 1, 2
    while not enough(most):
        least, most = most, 2 * most
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (least, middle) if enough(middle) else (middle, most)
    return most


def detectable_difference(
    num_seeds: int, deviation: float, *, paired: bool = True, power: float = 0.8, alpha: float = 0.05
) -> float:
    """Return the smallest difference that the two-sided t test finds with a number of seeds per arm.

    Args:
        num_seeds: as in `power_of_t`.
        deviation: as in `power_of_t`.
        paired: as in `power_of_t`.
        power: the probability that the test finds the difference.
        alpha: level of the test.

    Raises:
        InputError: a value is out of its range.

    >>> round(detectable_difference(5, 0.01), 4)
    0.0168
    """
    _require_share(power, "power")
    _effect(1.0, deviation)
    power_of_t(num_seeds, 1.0, 1.0, alpha=alpha)  # checks the other values
    if power <= alpha:
        raise InputError(f"power is {power}; it must be more than alpha ({alpha})")
    most = 1.0
    while power_of_t(num_seeds, most, 1.0, paired=paired, alpha=alpha) < power:
        most *= 2

    def excess(effect: float) -> float:
        return power_of_t(num_seeds, effect, 1.0, paired=paired, alpha=alpha) - power

    return root(excess, 1e-9, most) * deviation


def noether(probability: float, *, power: float = 0.95, alpha: float = 0.05) -> int:
    """Return how many runs per arm are needed to show a probability of improvement above 0.5.

    It is (z(1 - alpha) + z(power))^2 / (6 (1/2 - probability)^2), for the one-sided test (Noether 1987; Bouthillier
    et al. 2021).

    Args:
        probability: the true probability that ours is better, not 0.5.
        power: the probability that the test finds it.
        alpha: level of the one-sided test.

    Raises:
        InputError: a value is out of its range.

    >>> noether(0.75)
    29
    """
    for value, name in ((probability, "probability"), (power, "power"), (alpha, "alpha")):
        _require_share(value, name)
    if abs(probability - 0.5) < 1e-6:
        raise InputError("probability is 0.5, which no number of runs can tell from chance")
    norm = scipy_stats().norm
    z = float(norm.isf(alpha) + norm.ppf(power))
    return int(np.ceil(z**2 / (6 * (0.5 - probability) ** 2)))


def deviation_interval(deviation: float, degrees: int, level: float = 0.95) -> tuple[float, float]:
    """Return the confidence interval of a true standard deviation, from its estimate.

    It follows from the chi-square distribution of (n - 1) s^2 / sigma^2. With five runs, it reaches from 0.6 to 2.9
    times the estimate.

    Args:
        deviation: the estimate. For two arms, it is the square root of their variances' mean, with
            the weights n - 1.
        degrees: degrees of freedom of the estimate: n - 1 for n runs of one arm or n pairs, n - 2 for two arms with n
            runs together.
        level: confidence level.

    Raises:
        InputError: a value is out of its range.

    >>> [round(bound, 2) for bound in deviation_interval(2.5**0.5, 4)]
    [0.95, 4.54]
    """
    require_level(level)
    if degrees < 1 or not (deviation > 0 and np.isfinite(deviation)):
        raise InputError(f"no interval follows from a deviation of {deviation} with {degrees} degrees of freedom")
    chi2 = scipy_stats().chi2
    low, high = (float(chi2.isf(tail, degrees)) for tail in ((1 - level) / 2, (1 + level) / 2))
    return deviation * (degrees / low) ** 0.5, deviation * (degrees / high) ** 0.5


def _effect(difference: float, deviation: float) -> float:
    """Return the difference in standard deviations."""
    if not (np.isfinite(deviation) and deviation > 0):
        raise InputError(f"the standard deviation is {deviation}; it must be more than 0, so the runs must differ")
    if not (np.isfinite(difference) and difference != 0):
        raise InputError(f"the difference is {difference}; it must be a number other than 0")
    return abs(difference) / deviation


def _require_share(value: float, name: str) -> None:
    if not 0 < value < 1:
        raise InputError(f"{name} is {value}; it must be between 0 and 1")
