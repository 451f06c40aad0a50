"""How many seeds a difference needs."""

from collections.abc import Sequence


def power_of_t(
    num_seeds: float, difference: float, deviation: float, *, paired: bool = True, alpha: float = 0.05
) -> float:
    """Return the probability that the t test finds a difference."""
    raise NotImplementedError


def seeds_needed(
    difference: float, deviation: float, *, paired: bool = True, power: float = 0.8, alpha: float = 0.05
) -> int:
    """Return the number of seeds per arm with which the t test finds a difference with this power."""
    raise NotImplementedError


def detectable_difference(
    num_seeds: int, deviation: float, *, paired: bool = True, power: float = 0.8, alpha: float = 0.05
) -> float:
    """Return the difference that the t test finds with this power."""
    raise NotImplementedError


def noether(probability: float, *, power: float = 0.95, alpha: float = 0.05) -> int:
    """Return the number of pairs that show a probability of improvement (Noether 1987)."""
    raise NotImplementedError


def deviation_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Return the interval of the standard deviation of the values."""
    raise NotImplementedError
