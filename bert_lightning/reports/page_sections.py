"""Sections of the page of a report: figures under one heading."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bert_lightning.runs.figures import drawn


@dataclass(frozen=True)
class Picture:
    """A figure, drawn against one or several axes.

    Attributes:
        name: its subject, for a warning if it cannot be drawn.
        drawings: axis -> SVG; None if it could not be drawn.
    """

    name: str
    drawings: Mapping[str, str | None]


@dataclass(frozen=True)
class Section:
    """Figures under one heading.

    Attributes:
        title: the heading.
        pictures: the figures.
        folded: further figures, which are folded away.
        axes: names of the horizontal axes that a reader can choose; with one name or none, there is no choice.
        caption: whole sentences.
        single_runs: whether a reader can also show single runs.
        legend: label and mark of each arm; empty if the figures need none.
    """

    title: str
    pictures: tuple[Picture, ...]
    folded: tuple[Picture, ...] = ()
    axes: tuple[str, ...] = ()
    caption: str = ""
    single_runs: bool = False
    legend: tuple[tuple[str, str], ...] = ()


def picture_of(name: str, drawings: Mapping[str, Callable[[], str]]) -> Picture:
    """Draw a figure against each of its axes. If a drawing fails, log a warning."""
    return Picture(name, {axis: drawn(f"the figure of {name}", draw) for axis, draw in drawings.items()})
