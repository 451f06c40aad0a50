"""Correction of p-values for several comparisons."""

from collections.abc import Sequence

from bert_lightning.errors import InputError


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return the p-values adjusted by Holm's method (1979), in the same order.

    If all adjusted p-values below alpha count as significant, the probability of any false alarm in the family is at
    most alpha. This holds for dependent tests, too.

    Args:
        p_values: all tests of one family, such as the differences of one metric in one table. None stands for a
            comparison without a test; it stays None and does not count.

    Raises:
        InputError: a p-value is not between 0 and 1.

    >>> holm([0.01, None, 0.04])
    [0.02, None, 0.04]
    """
    for p in p_values:
        if p is not None and not 0 <= p <= 1:
            raise InputError(f"a p-value is {p}; it must be between 0 and 1")
    tested = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, place) in enumerate(tested):
        largest = max(largest, min(1.0, p * (len(tested) - rank)))
        adjusted[place] = largest
    return adjusted
