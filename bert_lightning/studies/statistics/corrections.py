"""Correction of p-values for several comparisons."""

from collections.abc import Sequence


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return the p-values adjusted by Holm's method; a None stays None and does not count."""
    raise NotImplementedError
