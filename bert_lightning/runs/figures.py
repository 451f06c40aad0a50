"""Pictures of an evaluation as SVG, and the style and error handling of all pictures."""

import io
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from bert_lightning.checkpoints.plain_text import printable, shortened

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)
T = TypeVar("T")
# With more classes the numbers would not be readable.
_MOST_WITH_NUMBERS = 25
# A longer name would leave no room for the picture itself.
LONGEST_NAME = 40
# A name is drawn unchanged, never as mathematics or LaTeX, whatever the user's matplotlibrc says.
_STYLE = {
    "text.parse_math": False,
    "text.usetex": False,
    "svg.fonttype": "none",
    "font.family": "sans-serif",
}
_OF_FONTS = re.compile(r"Glyph .* missing from font|Matplotlib currently does not support", re.DOTALL)


def drawn(name: str, draw: Callable[[], T]) -> T | None:
    """Draw a picture; warn and return None if that fails, so that a command does not lose the scores to be drawn."""
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            picture = draw()
    except Exception as error:
        log.warning("%s could not be drawn: %s: %s", name, type(error).__name__, printable(str(error)))
        return None
    # matplotlib warns about each character. One message is enough.
    if any(_OF_FONTS.match(str(warning.message)) for warning in caught):
        log.warning("%s: the font lacks characters of some names, which are boxes in the picture", name)
    return picture


@contextmanager
def plain_style(**settings: object) -> Iterator[None]:
    """Apply the settings of matplotlib with which figures are made and saved."""
    import matplotlib

    with matplotlib.rc_context({**_STYLE, **settings}):
        yield


def shown(name: str) -> str:
    """Return a name for a picture: on one line, and not too long."""
    return shortened(printable(name), LONGEST_NAME)


def confusion_figure(labels: Sequence[str], counts: NDArray[np.int64]) -> "Figure":
    """Draw (L, L) counts, gold by predicted, as a matplotlib figure shaded by the fraction of the gold class."""
    from matplotlib.figure import Figure

    num = len(labels)
    names = [shown(label) for label in labels]
    fractions = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    # Names beside the matrix need room, about 0.07 inches per character of this size.
    side = min(12.0, 2.4 + 0.42 * num + 0.07 * max((len(name) - 10 for name in names), default=0))
    with plain_style():
        figure = Figure(figsize=(side, side), layout="constrained")
        axes = figure.subplots()
        axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1)
        axes.set_xticks(range(num), names, rotation=90 if num > 3 else 0, fontsize=8)
        axes.set_yticks(range(num), names, fontsize=8)
        axes.set_xlabel("predicted")
        axes.set_ylabel("gold")
        axes.spines[:].set_visible(False)
        if num <= _MOST_WITH_NUMBERS:
            for gold, predicted in np.ndindex(num, num):
                colour = "white" if fractions[gold, predicted] > 0.5 else "#1f2937"
                text = f"{counts[gold, predicted]:,}"
                axes.text(predicted, gold, text, ha="center", va="center", color=colour, fontsize=7)
    return figure


def as_svg(figure: "Figure") -> str:
    """Convert a figure to SVG: text stays text, and equal figures give identical files."""
    buffer = io.StringIO()
    with plain_style(**{"svg.hashsalt": "figure"}), warnings.catch_warnings():
        # The fonts of the viewer are used, so characters that the fonts of this machine lack do not matter.
        warnings.filterwarnings("ignore", _OF_FONTS.pattern)
        metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", metadata=metadata)
    text = buffer.getvalue()
    return text[text.index("<svg") :]
