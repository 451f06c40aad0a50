"""Figures over the layers of encoders: a curve per quantity, and a map of two encoders."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bert_lightning.reports.figures.scales import Scale
from bert_lightning.reports.figures.svg import WIDTH, Style, axes, element, fitting, path, picture, text, title

_HEIGHT = 250.0
_LEFT, _TOP = 44.0, 28.0
# The width of the narrowest cell with a text. Then the values above which text in the colour of the page is easier to
# read than dark text: in light mode, and in dark mode.
_FEWEST_UNITS, _STRONG, _MIDDLE = 23.0, 0.67, 0.48
# The most layers that have a label on an axis.
_MOST_LABELS = 13


class LayerCurve(NamedTuple):
    """A quantity at each layer.

    Attributes:
        name: name of the quantity.
        values: its values at each layer, from the embeddings on.
        band: low and high at each layer; None for a line without a band.
        style: style of the line.
    """

    name: str
    values: Sequence[float]
    band: Sequence[tuple[float, float]] | None
    style: Style


def layer_labels(num_layers: int) -> list[tuple[float, str]]:
    """Return positions and names of the layers on an axis; with many layers, of some.

    >>> layer_labels(3)
    [(0, '0'), (1, '1'), (2, '2')]
    """
    every = -(-num_layers // _MOST_LABELS)
    return [(layer, str(layer)) for layer in range(0, num_layers, every)]


def draw_layer_curves(curves: Sequence[LayerCurve], label: str, levels: Sequence[float] = ()) -> str:
    """Return curves over the layers, with `levels` as dashed horizontal lines."""
    values = [value for curve in curves for value in curve.values] + [*levels]
    values += [value for curve in curves for ends in curve.band or () for value in ends]
    num_layers = len(curves[0].values)
    x = Scale(0, max(1, num_layers - 1), _LEFT + 8, WIDTH - 12)
    y = Scale.over(values, _HEIGHT - 42, _TOP)
    layers = np.arange(num_layers, dtype=np.float64)
    parts = [axes(x, y, "layer", label, labels=layer_labels(num_layers))]
    for level in levels:
        parts.append(element("path", d=f"M{x.start:.1f} {y.place(level):.1f}H{x.end:.1f}", class_="guess"))
    for curve in curves:
        parts.append(_curve(curve, x.places(layers), y))
    return picture(_HEIGHT, f"{label} at each layer", parts)


def _curve(curve: LayerCurve, places: np.ndarray, y: Scale) -> str:
    parts = []
    if curve.band is not None and all(np.isfinite(curve.band).ravel()):
        low, high = (y.places(np.array(ends, dtype=np.float64)) for ends in zip(*curve.band, strict=True))
        outline = path(np.concatenate([places, places[::-1]]), np.concatenate([high, low[::-1]]))
        parts.append(element("path", d=outline + "z", class_="band"))
    down = y.places(np.array(curve.values, dtype=np.float64))
    parts.append(element("path", d=path(places, down), class_="line", stroke_dasharray=curve.style.dashes))
    for layer, (right, place, value) in enumerate(zip(places.tolist(), down.tolist(), curve.values, strict=True)):
        words = title(f"{curve.name}, layer {layer}: {value:.4f}")
        parts.append(element("path", words, d=curve.style.mark(right, place), class_="mark"))
    return element("g", "".join(parts), class_=curve.style.colour)


def curve_mark(style: Style) -> str:
    """Return the mark of a curve for a legend."""
    line = element("path", d="M1 6H25", class_="line", stroke_dasharray=style.dashes)
    mark = element("path", d=style.mark(13, 6), class_="mark")
    return element(
        "svg", line + mark, viewBox="0 0 26 12", width=26, height=12, class_=f"key {style.colour}", aria_hidden="true"
    )


def draw_layer_map(values: Sequence[Sequence[float]], rows: str, columns: str) -> str:
    """Return a map of values from 0 to 1 over the layers of two models, with the first row at the bottom.

    The strength of a cell's colour is its value. A value that is not known is a stroke. Wide cells have their value
    as text.
    """
    num_rows, num_columns = len(values), len(values[0])
    left, top = 34.0, 26.0
    size = (WIDTH - left - 6) / num_columns
    height = min(size, 26.0)
    bottom = top + height * num_rows
    parts = [text(2.0, 14.0, fitting(f"rows: layers of {rows}", WIDTH - 30, 13), class_="name")]
    for row, of_row in enumerate(values):
        down = bottom - height * (row + 1)
        for column, value in enumerate(of_row):
            parts.append(_cell(left + size * column, down, size, height, value, f"layers {row} and {column}"))
    for layer, label in layer_labels(num_rows):
        place = bottom - height * (layer + 0.5) + 3.8
        parts.append(text(left - 6, place, label, text_anchor="end"))
    for layer, label in layer_labels(num_columns):
        parts.append(text(left + size * (layer + 0.5), bottom + 15, label, text_anchor="middle"))
    words = fitting(f"columns: layers of {columns}", WIDTH - 30, 13)
    parts.append(text(2.0, bottom + 34, words, class_="name"))
    return picture(bottom + 42, f"similarity of the layers of {rows} and {columns}", parts)


def _cell(left: float, top: float, width: float, height: float, value: float, names: str) -> str:
    if not np.isfinite(value):
        stroke = f"M{left:.1f} {top:.1f}l{width:.1f} {height:.1f}"
        return element("path", title(f"{names}: not known"), d=stroke, class_="axis")
    shown = min(max(value, 0.0), 1.0)
    words = title(f"{names}: {value:.4f}")
    box = element(
        "rect", words, x=left, y=top, width=width, height=height, class_="cell", fill_opacity=f"{shown:.3f}"
    )
    if width < _FEWEST_UNITS:
        return box
    tone = "on-strong" if shown > _STRONG else "on-middle" if shown > _MIDDLE else "on-weak"
    middle = text(left + width / 2, top + height / 2 + 3.5, f"{value:.2f}", text_anchor="middle", class_=tone)
    return box + middle
