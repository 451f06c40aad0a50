"""Published figures that an experiment is to reproduce, and the comparison with its metrics."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from bert_lightning.checks import RefusedValue, require_at_least


@dataclass(frozen=True)
class Published:
    """A figure of a paper or a project.

    Attributes:
        metric: our name of the metric, such as val/matthews; test/matthews for a figure on a hidden test set.
        value: the published value, on the scale of our metric.
        tolerance: largest difference that a faithful run may have.
        source: where it is published.
    """

    metric: str
    value: float
    tolerance: float
    source: str

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise RefusedValue("value", self.value, "be a finite number")
        require_at_least(self, 0, "tolerance")


def compared(published: Sequence[Published], metrics: Mapping[str, float]) -> Iterator[str]:
    """Yield one line per figure, with its source and whether the metrics are within its tolerance.

    >>> list(compared([Published("val/f1", 0.9, 0.01, "paper")], {"val/f1": 0.893}))
    ['published val/f1 0.9 ± 0.01 (paper): 0.8930, within it']
    """
    for figure in published:
        line = f"published {figure.metric} {figure.value:g} ± {figure.tolerance:g} ({figure.source})"
        if figure.metric not in metrics:
            yield f"{line}: not measured here"
            continue
        reached = metrics[figure.metric]
        inside = within(figure, reached)
        yield f"{line}: {reached:.4f}, {'within it' if inside else f'off by {reached - figure.value:+.4f}'}"


def within(figure: Published, reached: float) -> bool:
    """Return whether a score is within the tolerance of a published figure."""
    # Figures are rounded to a few digits, so the bound itself is within the tolerance.
    return abs(reached - figure.value) <= figure.tolerance + 1e-9
