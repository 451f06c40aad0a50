"""Figures over the layers of encoders: a curve per quantity, and a map of two encoders."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bert_lightning.reports.figures.scales import Scale
from bert_lightning.reports.figures.svg import WIDTH, Style, axes, element, path, picture, title

_HEIGHT = 250.0
_LEFT, _TOP = 44.0, 28.0
# The most layers that have a label on an axis.
_MOST_LABELS = 13


class LayerCurve(NamedTuple):
    """A quantity at each layer.

    Attributes:
        name: of the quantity.
        values: at each layer, from the embeddings.
        band: low and high at each layer; None for a line alone.
        style: of the line.
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
