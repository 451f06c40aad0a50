"""Scales, which map values to positions in a figure, their ticks, and short forms of numbers."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

# Positive values get a logarithmic scale if the largest is at least this many times the smallest.
_MANY_TIMES = 30.0
# Larger absolute values come from runs that diverged. Values below its inverse count as 0.
ABSURD = 1e100


@dataclass(frozen=True)
class Scale:
    """A linear or logarithmic map from values to positions, in units of the figure.

    Attributes:
        low: the value at `start`.
        high: the value at `end`.
        start: position of `low`.
        end: position of `high`. It may be smaller than `start`, because y increases downwards.
        logarithmic: whether equal ratios have equal lengths.
    """

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    @classmethod
    def over(
        cls, values: Iterable[float], start: float, end: float, *, logarithmic: bool = False, margin: float = 0.04
    ) -> "Scale":
        """Make a scale for some values, with a margin as a fraction of their range.

        Values that are not finite or beyond 1e100, such as those of a run that diverged, are ignored, because
        otherwise all others would coincide.

        >>> scale = Scale.over([0, 10], 0, 100, margin=0)
        >>> scale.place(2.5)
        25.0
        """
        known = [0.0 if abs(value) < 1 / ABSURD else float(value) for value in values if abs(value) < ABSURD]
        known = [value for value in known if value > 0] if logarithmic else known
        low, high = (min(known), max(known)) if known else (1.0, 2.0)
        if logarithmic:
            low, high = math.log10(low), math.log10(high)
        # If all values are equal, they are in the middle.
        is_single = high - low <= 1e-12 * max(abs(low), abs(high))
        pad = (abs(low) * 0.05 or 0.5) if is_single else (high - low) * margin
        low, high = low - pad, high + pad
        if logarithmic:
            low, high = 10**low, 10**high
        return cls(low, high, start, end, logarithmic)

    def place(self, value: float) -> float:
        """Return the position of a value."""
        return float(self.places(np.asarray([value], dtype=np.float64))[0])

    def places(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the positions, (N,), of values, (N,)."""
        low, high = self.low, self.high
        values = np.clip(values, -ABSURD, ABSURD)
        if self.logarithmic:
            values = np.log10(np.maximum(values, 1 / ABSURD))
            low, high = math.log10(low), math.log10(high)
        places = self.start + (values - low) / (high - low) * (self.end - self.start)
        # The limits are far outside the figure.
        return np.clip(places, -1e5, 1e5)

    def ticks(self, most: int = 6) -> list[tuple[float, str]]:
        """Return round values within the scale, about `most` or fewer, and their labels.

        >>> Scale(0, 0.1, 0, 100).ticks()
        [(0.0, '0.00'), (0.02, '0.02'), (0.04, '0.04'), (0.06, '0.06'), (0.08, '0.08'), (0.1, '0.10')]
        >>> Scale(1e-5, 1e-3, 0, 100, logarithmic=True).ticks()
        [(1e-05, '1e-5'), (3e-05, '3e-5'), (0.0001, '1e-4'), (0.0003, '3e-4'), (0.001, '0.001')]
        """
        if self.logarithmic:
            found = self._logarithmic_ticks(most)
            # Within less than a power of ten, equal steps have rounder values.
            return found if len(found) > 1 else replace(self, logarithmic=False).ticks(most)
        step = round_step((self.high - self.low) / most)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        values = [float(f"{number * step:.12g}") for number in range(first, last + 1)]
        largest = max(map(abs, values), default=0.0)
        if largest >= 1e4 or 0 < largest < 1e-3:
            return [(value, short(value)) for value in values]
        decimals = max(0, -math.floor(math.log10(step) + 1e-9))
        # 2.5 needs one digit more than its power of ten.
        if not math.isclose(round(step, decimals), step):
            decimals += 1
        return [(value, f"{value:,.{decimals}f}") for value in values]

    def _logarithmic_ticks(self, most: int) -> list[tuple[float, str]]:
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        for factors in ((1, 2, 5), (1, 3), (1,)):
            values = [float(f"{factor}e{power}") for power in range(first, last + 1) for factor in factors]
            values = [value for value in values if self.low * (1 - 1e-9) <= value <= self.high * (1 + 1e-9)]
            if len(values) <= most:
                break
        every = -(-len(values) // most) if values else 1
        return [(value, short(value)) for value in values[::every]]


def round_step(step: float) -> float:
    """Return the smallest of 1, 2, 2.5 and 5 times a power of ten that is at least `step`.

    >>> [round_step(step) for step in (0.03, 0.23, 7.0)]
    [0.05, 0.25, 10.0]
    """
    power = math.floor(math.log10(step))
    return next(
        float(f"{factor * 10.0**power:.12g}")
        for factor in (1, 2, 2.5, 5, 10)
        if factor * 10.0**power >= step * (1 - 1e-9)
    )


def is_logarithmic(values: Iterable[float]) -> bool:
    """Return whether values are positive and span such a large range that a logarithmic scale suits them."""
    known = [value for value in values if math.isfinite(value)]
    return bool(known) and min(known) > 0 and max(known) / min(known) >= _MANY_TIMES


def short(value: float) -> str:
    """Return a number in a few characters.

    >>> [short(value) for value in (12_500_000, 950, 0.664123, 3e-05, 1200, 0)]
    ['12.5M', '950', '0.6641', '3e-5', '1,200', '0']
    """
    size = abs(value)
    for bound, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if bound <= size < 1e15:
            unit = 1e3 if letter == "k" else bound
            return f"{float(f'{value / unit:.3g}'):g}{letter}"
    if size >= 1e15 or 0 < size < 1e-3:
        mantissa, _, exponent = f"{value:.2e}".partition("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    if size >= 1000:
        return f"{value:,.0f}"
    return f"{float(f'{value:.4g}'):g}"
