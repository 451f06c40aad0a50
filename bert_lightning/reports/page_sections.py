"""Sections of a report's page: figures with one heading."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bert_lightning.runs.figures import drawn


@dataclass(frozen=True)
class Picture:
    """A figure, drawn against one or several axes.

    Attributes:
        name: what it shows, for the message if it could not be drawn.
        drawings: axis -> SVG; None if it could not be drawn.
    """

    name: str
    drawings: Mapping[str, str | None]


@dataclass(frozen=True)
class Section:
    """Figures with one heading.

    Attributes:
        title: the heading.
        pictures: the figures.
        folded: further figures, which are folded away.
        axes: what the figures can be switched between; with one there is nothing to choose.
        caption: whole sentences.
        single_runs: whether the runs can be shown one by one.
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
    """Draw a figure against each of its axes; one that cannot be drawn is a warning."""
    return Picture(name, {axis: drawn(f"the figure of {name}", draw) for axis, draw in drawings.items()})
