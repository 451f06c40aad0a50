"""What a search would have found with a smaller budget."""

from collections.abc import Sequence


def expected_maximum(values: Sequence[float], n: int, *, replacement: bool = False) -> float:
    """Return the expected best of n trials (Tang et al. 2020), or with replacement (Dodge et al. 2019)."""
    raise NotImplementedError
