"""One point per seed beside each mean with its interval, and the Pareto front of score against cost."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from bert_lightning.checkpoints.plain_text import printable
from bert_lightning.reports.figures.scales import ABSURD, Scale, is_logarithmic
from bert_lightning.reports.figures.svg import (
    WIDTH,
    Style,
    axes,
    element,
    fitting,
    linked,
    picture,
    text,
    title,
    x_axis,
)
from bert_lightning.reports.number_texts import mean_text
from bert_lightning.reports.number_texts import number as number_text
from bert_lightning.reports.results import Metric, MetricCell

# Matches the sections before a key, such as `optimizer.` in `optimizer.name=adamw`.
_SECTIONS = re.compile(r"[\w.]+\.(?=\w+=)")
# Height of a row, of its first line, and of the additional line of a name that needs the whole width.
_ROW, _FIRST, _LINE = 38.0, 22.0, 13.0
_LEFT, _RIGHT = 6.0, 362.0
# Intervals of two or three seeds may be many times as wide as the span of the points. They are cut at this many times
# that span beyond the points, and an arrow marks the cut.
_WIDEST = 0.75
# Edges of the frame of the Pareto front, and the height of the figure.
_FRONT_LEFT, _FRONT_TOP, _FRONT_BOTTOM, _FRONT_HEIGHT = 46.0, 26.0, 208.0, 250.0


@dataclass(frozen=True)
class SeedRow:
    """One arm in a figure of points.

    Attributes:
        name: label of the arm.
        style: its style, the same in all figures of a table.
        cell: its scores in one metric.
        target: function from a seed to the anchor in the page that its point links to.
        is_baseline: whether a line through all rows marks its mean.
    """

    name: str
    style: Style
    cell: MetricCell
    target: Callable[[int], str]
    is_baseline: bool = False


@dataclass(frozen=True)
class Cost:
    """The cost and the score of one arm.

    Attributes:
        name: label of the arm.
        style: its style.
        cost: its mean cost over seeds: seconds, tokens, steps or parameters.
        score: its mean score.
        target: anchor in the page that its point links to.
    """

    name: str
    style: Style
    cost: float
    score: float
    target: str


def draw_seeds(metric: str, rows: Sequence[SeedRow]) -> str:
    """Draw a point per seed of each arm, its mean, and the interval of the mean."""
    needs_line = [_name_beside_number(row) != printable(row.name) for row in rows]
    tops = [_FIRST, *(_FIRST + each for each in accumulate(_ROW + _LINE * long for long in needs_line))]
    bottom = tops[-1]
    # Where the points of each row lie.
    middles = [top + 26 + _LINE * long for top, long in zip(tops[:-1], needs_line, strict=True)]
    x = _scale(rows)
    parts = [text(2.0, 12.0, fitting(metric, WIDTH - 20, 12), class_="name")]
    for value, _ in x.ticks():
        parts.append(element("path", d=f"M{x.place(value):.1f} 20V{bottom:.1f}", class_="grid"))
    parts += [_published(rows, x, middles), _baseline(rows, x, bottom)]
    parts += [_row(*each, x) for each in zip(rows, needs_line, middles, strict=True)]
    parts.append(x_axis(x, bottom, ""))
    return picture(bottom + 20, f"{metric}: a point per seed of {', '.join(row.name for row in rows)}", parts)


def _scale(rows: Sequence[SeedRow]) -> Scale:
    values = [value for row in rows for value in row.cell.values.values() if math.isfinite(value)]
    figures = [published.figure for row in rows for published in row.cell.published]
    values += [figure.value for figure in figures]
    values = [value for value in values if abs(value) < ABSURD]
    if not values:
        return Scale.over([], _LEFT, _RIGHT)
    span = max(values) - min(values)
    reach = _WIDEST * span
    ends = [end for row in rows for end in row.cell.mean_interval or ()]
    ends = [min(max(end, min(values) - reach), max(values) + reach) for end in ends if math.isfinite(end)]
    return Scale.over([*values, *ends], _LEFT, _RIGHT, margin=0.03)


def _words(row: SeedRow) -> str:
    return f"{mean_text(row.cell)}, n = {row.cell.n}"


def _name_beside_number(row: SeedRow) -> str:
    return fitting(row.name, _RIGHT - _LEFT - 6.2 * len(_words(row)) - 12)


def _row(row: SeedRow, needs_line: bool, middle: float, x: Scale) -> str:
    cell, down = row.cell, middle - 13
    # A long name is shortened by dropping the sections of its keys, rather than its middle.
    name = fitting(_SECTIONS.sub("", row.name), _RIGHT - _LEFT) if needs_line else row.name
    parts = [title(row.name), text(_LEFT, down - _LINE * needs_line, name, class_="halo")]
    parts.append(text(_RIGHT, down, _words(row), text_anchor="end", class_="value halo"))
    if cell.mean_interval is not None and all(map(math.isfinite, cell.mean_interval)):
        parts.append(_interval(x, cell.mean_interval, middle))
    for seed, value in cell.values.items():
        if math.isfinite(value):
            mark = element("path", d=row.style.mark(x.place(value), middle, 3.2), class_="mark seed")
            parts.append(linked(row.target(seed), mark, f"{row.name}, seed {seed}: {number_text(value)}"))
    if cell.mean is not None and cell.n > 1:
        place = x.place(cell.mean)
        words = f"{row.name}: mean of {cell.n} seeds {number_text(cell.mean)}"
        parts.append(element("path", title(words), d=f"M{place:.1f} {middle - 8:.1f}v16", class_="centre"))
    return element("g", "".join(parts), class_=row.style.colour)


def _interval(x: Scale, interval: tuple[float, float], middle: float) -> str:
    low, high = interval
    left, right = max(x.place(low), x.start), min(x.place(high), x.end)
    parts = [element("path", d=f"M{left:.1f} {middle:.1f}H{right:.1f}", class_="interval")]
    ends = ((left, x.place(low) < x.start, 1), (right, x.place(high) > x.end, -1))
    for place, is_cut, inwards in ends:
        head = f"m{4 * inwards} -4l{-4 * inwards} 4l{4 * inwards} 4" if is_cut else "m0 -4v8"
        parts.append(element("path", d=f"M{place:.1f} {middle:.1f}{head}", class_="interval"))
    return element("g", title(f"interval of the mean: {number_text(low)} to {number_text(high)}") + "".join(parts))


def _baseline(rows: Sequence[SeedRow], x: Scale, bottom: float) -> str:
    baseline = next((row for row in rows if row.is_baseline and row.cell.mean is not None), None)
    if baseline is None or baseline.cell.mean is None or len(rows) == 1:
        return ""
    words = title(f"mean of the baseline: {number_text(baseline.cell.mean)}")
    return element("path", words, d=f"M{x.place(baseline.cell.mean):.1f} 20V{bottom:.1f}", class_="guess")


def _published(rows: Sequence[SeedRow], x: Scale, middles: Sequence[float]) -> str:
    """Return a mark with tolerance at each published figure, in the row of its arm."""
    parts = []
    for row, middle in zip(rows, middles, strict=True):
        for published in row.cell.published:
            figure, top = published.figure, middle - 8
            left = max(x.place(figure.value - figure.tolerance), x.start)
            right = min(x.place(figure.value + figure.tolerance), x.end)
            words = title(f"published: {figure.value:g} ± {figure.tolerance:g} ({figure.source})")
            shape = element("rect", x=left, y=top, width=max(right - left, 1.0), height=16.0, class_="tolerance")
            place = x.place(figure.value)
            shape += element("path", d=f"M{place:.1f} {top:.1f}v16", class_="published")
            parts.append(element("g", words + shape))
    return "".join(parts)


def front(points: Sequence[Cost], better: str) -> list[Cost]:
    """Return the Pareto front, by increasing cost: points that no other one beats at the same or lower cost.

    >>> s = Style.of(0)
    >>> points = [Cost("a", s, 1, 0.5, ""), Cost("b", s, 2, 0.4, ""), Cost("c", s, 3, 0.7, "")]
    >>> [point.name for point in front(points, "max")]
    ['a', 'c']
    """
    sign = 1.0 if better == "max" else -1.0
    kept: list[Cost] = []
    for point in sorted(points, key=lambda point: (point.cost, -sign * point.score)):
        if not kept or sign * point.score > sign * kept[-1].score:
            kept.append(point)
    return kept


def draw_front(
    metric: Metric, points: Sequence[Cost], cost: str, describe: Callable[[float], str], unit: float = 1.0
) -> str:
    """Draw the score of each arm against its cost, and the Pareto front. Return SVG.

    Args:
        metric: the score, whose better direction is known.
        points: the arms.
        cost: label of the axis.
        describe: function from a cost to text, for titles.
        unit: cost per unit of the axis, such as 60 seconds per minute.
    """
    costs, scores = [point.cost / unit for point in points], [point.score for point in points]
    x = Scale.over(costs, _FRONT_LEFT, _RIGHT, logarithmic=is_logarithmic(costs), margin=0.08)
    y = Scale.over(scores, _FRONT_BOTTOM, _FRONT_TOP, margin=0.1)
    parts = [axes(x, y, cost + (", log" if x.logarithmic else ""), metric.name)]
    best = front(points, metric.better or "max")
    steps = []
    for number, point in enumerate(best):
        place = f"{x.place(point.cost / unit):.1f} {y.place(point.score):.1f}"
        steps.append(f"M{place}" if not number else f"V{y.place(point.score):.1f}")
        following = best[number + 1 : number + 2]
        steps += [f"H{x.place(each.cost / unit):.1f}" for each in following]
    parts.append(element("path", d="".join(steps) + f"H{x.end:.1f}", class_="front"))
    for point in points:
        kind = "mark" if point in best else "mark beaten"
        mark = element("path", d=point.style.mark(x.place(point.cost / unit), y.place(point.score), 4.5), class_=kind)
        words = f"{point.name}: {number_text(point.score)}, {describe(point.cost)}"
        parts.append(element("g", linked(point.target, mark, words), class_=point.style.colour))
    return picture(
        _FRONT_HEIGHT, f"{metric.name} against {cost} of {', '.join(point.name for point in points)}", parts
    )
