"""Adding seeds in several looks without more false alarms."""

from collections.abc import Sequence
from typing import Literal


def stopping_levels(
    seeds: Sequence[int], alpha: float = 0.05, rule: Literal["pocock", "obrien-fleming"] = "pocock"
) -> list[float]:
    """Return, for each look with so many seeds, the p-value below which a study may stop."""
    raise NotImplementedError
