"""Elements of SVG as text, and the frame of a figure with its axes.

A figure sets no colours. It has classes, which the style sheet of the page colours, so that the figure is readable in
light mode, dark mode and print. Lines also differ in dashes and points in shape, so that colour is never needed to
tell them apart.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

from bert_lightning.checkpoints.plain_text import printable, shortened
from bert_lightning.reports.figures.scales import Scale

# The width of a figure, in units of about one CSS pixel on a phone, so that text has the same size as on a desktop.
WIDTH = 380.0
NUM_COLOURS = 8
# Number of colours for the ranks of many arms.
NUM_SHADES = 5
_DASHES = ("", "7 3", "2 2.5", "9 3 2 3")
# Mean width of a character, as a fraction of the font size.
_CHARACTER = 0.56
_FONT = 11.0


@dataclass(frozen=True)
class Style:
    """The style of the lines and points of one arm.

    Attributes:
        colour: class that sets the colour.
        dashes: value of `stroke-dasharray`; empty for a solid line.
        form: index of the shape of its points.
    """

    colour: str
    dashes: str = ""
    form: int = 0

    @classmethod
    def of(cls, number: int) -> "Style":
        """Return the style of an arm by its number. Number 0, the baseline, has the colour of the text."""
        return cls(f"s{number % NUM_COLOURS}", _DASHES[number % len(_DASHES)], number % len(_MARKS))

    @classmethod
    def ranked(cls, rank: int, num: int) -> "Style":
        """Return the style of one of many arms by its rank, from 0 for the worst: the better, the darker."""
        return cls("best" if rank == num - 1 else f"q{rank * NUM_SHADES // num}")

    def mark(self, x: float, y: float, size: float = 3.5) -> str:
        """Return the path of a point."""
        return _MARKS[self.form](x, y, size)


def _circle(x: float, y: float, size: float) -> str:
    return f"M{x - size:.1f} {y:.1f}a{size} {size} 0 1 0 {2 * size} 0a{size} {size} 0 1 0 {-2 * size} 0z"


def _polygon(*corners: tuple[float, float]) -> str:
    return "M" + " ".join(f"{x:.1f} {y:.1f}" for x, y in corners) + "z"


def _square(x: float, y: float, size: float) -> str:
    side = 0.88 * size
    return _polygon((x - side, y - side), (x + side, y - side), (x + side, y + side), (x - side, y + side))


def _triangle(x: float, y: float, size: float) -> str:
    return _polygon((x, y - 1.2 * size), (x + 1.1 * size, y + 0.8 * size), (x - 1.1 * size, y + 0.8 * size))


def _diamond(x: float, y: float, size: float) -> str:
    side = 1.25 * size
    return _polygon((x, y - side), (x + side, y), (x, y + side), (x - side, y))


def _turned_triangle(x: float, y: float, size: float) -> str:
    return _polygon((x, y + 1.2 * size), (x - 1.1 * size, y - 0.8 * size), (x + 1.1 * size, y - 0.8 * size))


def _plus(x: float, y: float, size: float) -> str:
    arm, half = 1.2 * size, 0.42 * size
    steps = [(-half, -arm), (half, -arm), (half, -half), (arm, -half), (arm, half), (half, half), (half, arm)]
    steps += [(-half, arm), (-half, half), (-arm, half), (-arm, -half), (-half, -half)]
    return _polygon(*((x + right, y + down) for right, down in steps))


def _cross(x: float, y: float, size: float) -> str:
    arm, half = 1.0 * size, 0.45 * size
    steps = [(0, -half), (arm - half, -arm), (arm, half - arm), (half, 0), (arm, arm - half), (arm - half, arm)]
    steps += [(0, half), (half - arm, arm), (-arm, arm - half), (-half, 0), (-arm, half - arm), (half - arm, -arm)]
    return _polygon(*((x + right, y + down) for right, down in steps))


def _bar(x: float, y: float, size: float) -> str:
    half, tall = 0.45 * size, 1.25 * size
    return _polygon((x - half, y - tall), (x + half, y - tall), (x + half, y + tall), (x - half, y + tall))


_MARKS = (_circle, _square, _triangle, _diamond, _turned_triangle, _plus, _cross, _bar)


def element(tag: str, content: str = "", **attributes: str | float | None) -> str:
    """Return an element. Attribute values are escaped, the content is not. `_` in a name becomes `-`.

    >>> element("path", d="M0 0", stroke_width=2, title=None)
    '<path d="M0 0" stroke-width="2"/>'
    """
    parts = [tag]
    for name, value in attributes.items():
        if value is not None and value != "":
            text = f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)
            parts.append(f'{name.rstrip("_").replace("_", "-")}="{escape(printable(text))}"')
    opening = " ".join(parts)
    return f"<{opening}>{content}</{tag}>" if content else f"<{opening}/>"


def text(x: float, y: float, words: str, **attributes: str | float | None) -> str:
    """Return a line of text, whose words are escaped."""
    return element("text", escape(printable(words)), x=x, y=y, **attributes)


def fitting(words: str, width: float, size: float = _FONT) -> str:
    """Return words, shortened in the middle if they are wider than `width` units."""
    return shortened(printable(words), max(4, int(width / (size * _CHARACTER))))


def title(words: str) -> str:
    """Return the title of an element, which a browser shows while the pointer is over it."""
    return f"<title>{escape(printable(words))}</title>"


def path(x: NDArray[np.float64], y: NDArray[np.float64]) -> str:
    """Return the attribute `d` of a line through positions. The line is interrupted where a position is not finite.

    >>> path(np.array([0.0, 1.0, 2.0, 3.0]), np.array([5.0, np.nan, 6.0, 7.04]))
    'M0 5M2 6L3 7'
    """
    pieces: list[str] = []
    letter = "M"
    for right, down in zip(x.tolist(), y.tolist(), strict=True):
        if not (np.isfinite(right) and np.isfinite(down)):
            letter = "M"
            continue
        pieces.append(f"{letter}{_place(right)} {_place(down)}")
        letter = "L" if letter == "M" else " "
    return "".join(pieces)


def _place(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def linked(target: str, content: str, words: str) -> str:
    """Return content as a link to an anchor in the page, with a title."""
    return element("a", title(words) + content, href=f"#{target}", tabindex="-1")


def picture(height: float, label: str, parts: Iterable[str]) -> str:
    """Return a complete figure. `label` describes it for screen readers."""
    return element(
        "svg", "".join(parts), viewBox=f"0 0 {WIDTH:g} {height:g}", role="img", aria_label=label, class_="plot"
    )


def axes(
    x: Scale,
    y: Scale,
    x_label: str,
    y_label: str,
    bottom: float | None = None,
    labels: Sequence[tuple[float, str]] | None = None,
) -> str:
    """Return grid, ticks and labels of a figure with both axes.

    The positions of the scales are those of the frame: `x.start` is its left edge, and `y.start` is its bottom,
    unless `bottom` is given. `labels` are the values and names on the horizontal axis, instead of round numbers.
    """
    parts = []
    for value, label in y.ticks():
        down = y.place(value)
        parts.append(element("path", d=f"M{x.start:.1f} {down:.1f}H{x.end:.1f}", class_="grid"))
        parts.append(text(x.start - 5, down + 3.8, label, text_anchor="end"))
    parts.append(x_axis(x, y.start if bottom is None else bottom, x_label, labels=labels))
    parts.append(text(2.0, y.end - 10, fitting(y_label, WIDTH - 20, 12), class_="name"))
    return element("g", "".join(parts), class_="axes")


def framed(x: Scale, y: Scale, content: Iterable[str]) -> str:
    """Return content that is cut off at the frame, with room for a mark on its border."""
    left, top, width, height = x.start - 4, y.end - 4, x.end - x.start + 8, y.start - y.end + 4
    box = f"{left:g} {top:g} {width:g} {height:g}"
    return element("svg", "".join(content), x=left, y=top, width=width, height=height, viewBox=box)


def x_axis(x: Scale, bottom: float, label: str, labels: Sequence[tuple[float, str]] | None = None) -> str:
    """Return a horizontal axis with its ticks and its label below it."""
    parts = [element("path", d=f"M{x.start:.1f} {bottom:.1f}H{x.end:.1f}", class_="axis")]
    for value, words in x.ticks() if labels is None else labels:
        right = x.place(value)
        parts.append(element("path", d=f"M{right:.1f} {bottom:.1f}v4", class_="axis"))
        parts.append(text(right, bottom + 15, words, text_anchor="middle"))
    parts.append(text(x.end, bottom + 30, label, text_anchor="end", class_="label"))
    return "".join(parts)
