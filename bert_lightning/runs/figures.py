"""Pictures of an evaluation as SVG."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Beyond so many classes the numbers would not be readable.
_MOST_WITH_NUMBERS = 25


def confusion_figure(labels: Sequence[str], counts: NDArray[np.int64]) -> Any:
    """A matplotlib figure of (L, L) counts, gold by predicted, shaded by the share of the gold class."""
    from matplotlib.figure import Figure

    num = len(labels)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = min(12.0, 2.4 + 0.42 * num)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(num), labels, rotation=90 if num > 3 else 0, fontsize=8)
    axes.set_yticks(range(num), labels, fontsize=8)
    axes.set_xlabel("predicted")
    axes.set_ylabel("gold")
    axes.spines[:].set_visible(False)
    if num <= _MOST_WITH_NUMBERS:
        for row in range(num):
            for place in range(num):
                colour = "white" if shares[row, place] > 0.5 else "#1f2937"
                axes.text(place, row, f"{counts[row, place]:,}", ha="center", va="center", color=colour, fontsize=7)
    return figure


def as_svg(figure: Any) -> str:
    """A figure as SVG: text stays text, and equal figures are equal files."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "figure", "font.family": "sans-serif"}):
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = buffer.getvalue()
    return text[text.index("<svg") :]
