"""Learning curves: the mean of each arm with the band of its seeds, against steps, tokens and wall clock."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bert_lightning.reports.figures.lines import Line, band, thinned
from bert_lightning.reports.figures.progress import AXES, Axis, Progress
from bert_lightning.reports.figures.scales import Scale, short
from bert_lightning.reports.figures.svg import Style, axes, element, framed, linked, path, picture, title
from bert_lightning.wording import duration

# Metric -> the metrics with its score for guessing.
BASELINES = {
    "mlm_loss": ("val/mlm_unigram_loss",),
    "mlm_accuracy": ("val/mlm_unigram_accuracy",),
    "nsp_accuracy": ("val/nsp_majority_accuracy",),
}
_HEIGHT = 250.0
# The frame, in units of the figure.
_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 362.0, 26.0, 208.0
_LABEL_HEIGHT = 12.0
# The points of a curve are marked, unless it has more.
_MOST_MARKS = 16
# The share of the training, from its beginning, that does not determine the vertical axis.
_STEEP = 0.2
# With fewer points, all points of a curve determine the vertical axis.
_FEW_POINTS = 8
# With more arms, no bands are drawn, because they would hide each other.
_MOST_BANDS = 8
_HOUR, _MINUTE = 3600.0, 60.0


@dataclass(frozen=True)
class Learner:
    """A run in a figure of curves.

    Attributes:
        name: its title, such as arm and seed.
        target: anchor in the page that its line links to.
        progress: its progress at each logged row.
    """

    name: str
    target: str
    progress: Progress


@dataclass(frozen=True)
class Learners:
    """The runs of one arm.

    Attributes:
        name: label of the arm.
        style: its style, the same in all figures of a table.
        runs: its runs, one per seed.
        unfinished: its runs that are not in the table. They are drawn only as single runs.
    """

    name: str
    style: Style
    runs: Sequence[Learner]
    unfinished: Sequence[Learner] = ()


def known_axes(arms: Sequence[Learners]) -> list[Axis]:
    """Return the possible horizontal axes: steps, and others if the records of runs have them."""
    return [axis for axis in AXES if any(axis in run.progress.at for arm in arms for run in arm.runs)]


def has_curve(quantity: str, arms: Sequence[Learners]) -> bool:
    """Return whether a run logged a quantity at two steps or more, so that it has a line."""
    return any(
        len(run.progress.series(f"{stage}/{quantity}", "steps")[0]) > 1
        for arm in arms
        for run in arm.runs
        for stage in ("val", "train")
    )


def draw_curves(quantity: str, arms: Sequence[Learners], axis: Axis, most_points: int) -> str:
    """Draw a quantity of all arms, in training and validation, against an axis. Return SVG.

    Args:
        quantity: name of the metric without `train/` or `val/`.
        arms: the arms, in the order of the table.
        axis: the horizontal axis: steps, tokens or seconds.
        most_points: the most points of one line.
    """
    furthest = max((run.progress.total(axis) or 0.0 for arm in arms for run in arm.runs), default=0.0)
    factor, axis_label = unit_of(axis, furthest)
    lines = {
        (stage, number): [_line(run, f"{stage}/{quantity}", axis, factor) for run in (*arm.runs, *arm.unfinished)]
        for stage in ("train", "val")
        for number, arm in enumerate(arms)
    }
    known = [line for several in lines.values() for line in several if len(line.x)]
    x = Scale.over([0.0, *(float(line.x[-1]) for line in known)], _LEFT, _RIGHT, margin=0.0)
    low, high = _range(known, x.high)
    guesses = sorted({value for arm in arms for value in _guesses(quantity, arm)})
    guesses = [value for value in guesses if abs(value - (low + high) / 2) <= high - low]
    y = Scale.over([low, high, *guesses], _BOTTOM, _TOP)
    inside = [_guesses_at(y, guesses)]
    with_bands = len(arms) <= _MOST_BANDS
    for number, arm in enumerate(arms):
        # Training is faint beside validation.
        faint = any(len(line.x) for line in lines["val", number])
        content = [
            _curve(arm, lines["train", number], x, y, most_points, faint=faint, with_band=with_bands),
            _curve(arm, lines["val", number], x, y, most_points, faint=False, with_band=with_bands),
        ]
        inside.append(element("g", "".join(content), class_=arm.style.colour))
    parts = [axes(x, y, axis_label, quantity), framed(x, y, inside)]
    named = ", ".join(arm.name for arm in arms)
    return picture(_HEIGHT, f"{quantity} against {axis_label} of {named}", parts)


def _range(lines: Sequence[Line], end: float) -> tuple[float, float]:
    """Return the smallest and the largest value after the first fifth, where curves are steep and similar."""
    steep = _STEEP if any(len(line.x) >= _FEW_POINTS for line in lines) else 0.0
    late = [line.y[line.x >= steep * end] for line in lines]
    values = np.concatenate([each for each in late if len(each)] or [line.y for line in lines] or [np.zeros(1)])
    return float(values.min()), float(values.max())


def _line(run: Learner, metric: str, axis: Axis, factor: float) -> Line:
    x, y = run.progress.series(metric, axis)
    return Line(x / factor, y)


def _curve(
    arm: Learners, lines: Sequence[Line], x: Scale, y: Scale, most_points: int, *, faint: bool, with_band: bool
) -> str:
    """Return mean, band and single runs of one metric of an arm."""
    given = [(run, line) for run, line in zip(arm.runs, lines, strict=False) if len(line.x)]
    others = [(run, line) for run, line in zip(arm.unfinished, lines[len(arm.runs) :], strict=True) if len(line.x)]
    kind = "line faint" if faint else "line"
    dashes = arm.style.dashes
    parts = []
    found = band([line for _, line in given], most_points)
    if found is not None:
        places, mean = x.places(found.x), y.places(found.mean)
        if len(given) > 1 and not faint and with_band:
            outline = np.concatenate([y.places(found.high), y.places(found.low)[::-1]])
            parts.append(
                element("path", d=path(np.concatenate([places, places[::-1]]), outline) + "z", class_="band")
            )
        words = title(f"{arm.name}: mean of {len(given)}") if len(given) > 1 else title(given[0][0].name)
        parts.append(element("path", words, d=path(places, mean), class_=f"{kind} mean", stroke_dasharray=dashes))
        if not faint and len(places) <= _MOST_MARKS:
            marks = "".join(arm.style.mark(*place, 2.8) for place in zip(places.tolist(), mean.tolist(), strict=True))
            parts.append(element("path", d=marks, class_="mark mean"))
    # Beside validation, training shows only its mean. A single run equals its mean, so it is drawn once.
    singles = others if found is not None and (faint or len(given) == 1) else [*given, *others]
    drawn = "".join(_single(run, line, x, y, most_points, dashes) for run, line in singles)
    if drawn:
        parts.append(element("g", drawn, class_="singles" if found is not None or not given else ""))
    return "".join(parts)


def _single(run: Learner, line: Line, x: Scale, y: Scale, most_points: int, dashes: str) -> str:
    line = thinned(line, most_points)
    drawn = element("path", d=path(x.places(line.x), y.places(line.y)), class_="line single", stroke_dasharray=dashes)
    return linked(run.target, drawn, run.name)


def _guesses(quantity: str, arm: Learners) -> list[float]:
    """Return the last score of guessing of an arm's first run, to four digits: equal lines are drawn once."""
    found = (arm.runs[0].progress.series(name, "steps")[1] for name in BASELINES.get(quantity, ()) if arm.runs)
    return [float(f"{values[-1]:.4g}") for values in found if len(values)]


def _guesses_at(y: Scale, values: Sequence[float]) -> str:
    """Draw a line for each score of guessing. Lines that are close share one label, that of the highest line."""
    parts, label = [], -math.inf
    for value in sorted(values, key=y.place):
        down = y.place(value)
        words = title(f"guessing: {short(value)}")
        parts.append(element("path", words, d=f"M{_LEFT:.1f} {down:.1f}H{_RIGHT:.1f}", class_="guess"))
        if down - label > _LABEL_HEIGHT:
            label = down
            above = down - 3 if down - _TOP > _LABEL_HEIGHT else down + _LABEL_HEIGHT
            parts.append(element("text", "guessing", x=_RIGHT, y=above, text_anchor="end", class_="label halo"))
    return "".join(parts)


def unit_of(axis: Axis, furthest: float) -> tuple[float, str]:
    """Return the size of the unit that suits an axis up to a value, and the label of the axis."""
    if axis == "seconds":
        if furthest >= 3 * _HOUR:
            return _HOUR, "wall clock, hours"
        return (_MINUTE, "wall clock, minutes") if furthest >= 3 * _MINUTE else (1.0, "wall clock, seconds")
    if axis == "tokens":
        for size, name in ((1e9, "billions"), (1e6, "millions"), (1e3, "thousands")):
            if furthest >= 2 * size:
                return size, f"tokens, {name}"
        return 1.0, "tokens"
    return 1.0, "steps"


def distance(axis: Axis, value: float) -> str:
    """Return the progress of a run as text, for a title.

    >>> distance("tokens", 2_500_000), distance("seconds", 75)
    ('2.5M tokens', '1 min 15 s')
    """
    return duration(value) if axis == "seconds" else f"{short(value)} {axis}"


def legend_mark(style: Style) -> str:
    """Return a small picture of an arm's line and mark, for a legend in the text."""
    content = element("path", d="M1 7H27", class_="line mean", stroke_dasharray=style.dashes)
    content += element("path", d=style.mark(14, 7, 3.4), class_="mark")
    inner = element("g", content, class_=style.colour)
    return element("svg", inner, viewBox="0 0 28 14", width=28, height=14, aria_hidden="true", class_="key")
