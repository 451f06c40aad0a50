"""Figures that an experiment is to reproduce, and how near it came."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from bert_lightning.checks import RefusedValue


@dataclass(frozen=True)
class Published:
    """A figure of a paper or a project.

    Attributes:
        metric: the one of ours that it is a value of, such as val/matthews; of a hidden test set, test/matthews.
        value: as published, on our metric's scale.
        tolerance: how far from it a faithful run may end.
        source: where it is published.
    """

    metric: str
    value: float
    tolerance: float
    source: str

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise ValueError(f"value is {self.value}; a number is expected")
        if not self.tolerance >= 0:
            raise RefusedValue("tolerance", self.tolerance, "be 0 or more")


def compared(published: Sequence[Published], metrics: Mapping[str, float]) -> Iterator[str]:
    """A line a figure: what it is, and whether the metrics are within its tolerance."""
    for figure in published:
        line = f"published {figure.metric} {figure.value:g} ± {figure.tolerance:g} ({figure.source})"
        if figure.metric not in metrics:
            yield f"{line}: not measured here"
            continue
        reached = metrics[figure.metric]
        # Figures are printed to a few digits, so the border belongs to it.
        inside = abs(reached - figure.value) <= figure.tolerance + 1e-9
        yield f"{line}: {reached:.4f}, {'within it' if inside else f'off by {reached - figure.value:+.4f}'}"
