"""Figures of a search: its history, expected validation performance, parallel coordinates and importance."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bert_lightning.reports.figures.scales import Scale, short
from bert_lightning.reports.figures.svg import (
    WIDTH,
    Style,
    axes,
    element,
    fitting,
    linked,
    path,
    picture,
    text,
    title,
)

_LEFT, _RIGHT, _TOP, _BOTTOM, _HEIGHT = 46.0, 362.0, 26.0, 208.0, 250.0
_ROW = 60.0
_EDGE = 20.0
# If a key has at most this many distinct numbers, the ticks are at these numbers.
_FEW_VALUES = 5


@dataclass(frozen=True)
class Trial:
    """One trial of a search.

    Attributes:
        number: its number, from 0.
        values: key -> value.
        score: mean score over its seeds; None if it was pruned or failed.
        state: its state, such as `complete` or `pruned`.
        target: anchor in the page that its point links to.
    """

    number: int
    values: Mapping[str, object]
    score: float | None
    state: str
    target: str

    @property
    def words(self) -> str:
        """Text of its title."""
        score = self.state if self.score is None else short(self.score)
        keys = ", ".join(f"{key} {shown_value(value)}" for key, value in self.values.items())
        return f"trial {self.number}: {score}; {keys}"


def draw_history(metric: str, trials: Sequence[Trial], better: str) -> str:
    """Draw the score of each trial and the best one so far; trials without a score are crosses at the bottom."""
    scored = [trial for trial in trials if trial.score is not None]
    scores = np.array([trial.score for trial in scored], dtype=np.float64)
    x = Scale.over([trial.number for trial in trials], _LEFT, _RIGHT, margin=0.03)
    y = Scale.over(scores, _BOTTOM - 14, _TOP)
    parts = [axes(x, y, "trial", metric, _BOTTOM)]
    if scored:
        best = np.maximum.accumulate(scores) if better == "max" else np.minimum.accumulate(scores)
        steps = [f"M{x.place(scored[0].number):.1f} {y.place(best[0]):.1f}"]
        for trial, value in zip(scored[1:], best[1:].tolist(), strict=True):
            steps.append(f"H{x.place(trial.number):.1f}V{y.place(value):.1f}")
        parts.append(element("path", title("best so far"), d="".join(steps), class_="front"))
    circle, cross = Style.of(0), Style.of(6)
    for trial in trials:
        place = x.place(trial.number)
        if trial.score is None:
            mark = element("path", d=cross.mark(place, _BOTTOM - 5, 3.0), class_="mark beaten")
        else:
            mark = element("path", d=circle.mark(place, y.place(trial.score), 3.2), class_="mark trial")
        parts.append(linked(trial.target, mark, trial.words))
    return picture(_HEIGHT, f"{metric} of each trial, and the best so far", parts)


def draw_expected(metric: str, expected: Sequence[float]) -> str:
    """Draw the expected best score of 1, 2, ... trials."""
    numbers, values = np.arange(1.0, len(expected) + 1), np.array(expected)
    x = Scale.over(numbers, _LEFT, _RIGHT, margin=0.03)
    y = Scale.over(values, _BOTTOM, _TOP)
    parts = [axes(x, y, "trials", f"expected best {metric}")]
    parts.append(element("path", d=path(x.places(numbers), y.places(values)), class_="line mean best"))
    circle = Style.of(0)
    if len(expected) <= 60:
        for number, value in zip(numbers.tolist(), values.tolist(), strict=True):
            mark = element(
                "path",
                title(f"{number:.0f} trials: {short(value)}"),
                d=circle.mark(x.place(number), y.place(value), 2.6),
            )
            parts.append(element("g", mark, class_="mark trial"))
    return picture(_HEIGHT, f"expected best {metric} against the number of trials", parts)


def draw_parallel(metric: str, trials: Sequence[Trial], better: str, logarithmic: Collection[str] = ()) -> str:
    """Draw each trial with a score as a line through its values.

    The axes are one below the other, so that any number of axes and the names of keys fit on a phone.

    Args:
        metric: name of the score.
        trials: the trials.
        better: `max` or `min`.
        logarithmic: the keys that the search drew on a logarithmic scale.
    """
    scored = sorted((trial for trial in trials if trial.score is not None), key=lambda trial: trial.score or 0.0)
    if better == "min":
        scored.reverse()
    keys = list(dict.fromkeys(key for trial in scored for key in trial.values))
    rows = [_Coordinate.of(key, [trial.values.get(key) for trial in scored], key in logarithmic) for key in keys]
    rows.append(_Coordinate.of(metric, [trial.score for trial in scored], logarithmic=False))
    tops = [30.0 + _ROW * number for number in range(len(rows))]
    parts = []
    for number, trial in enumerate(scored):
        places = [
            row.place(value) for row, value in zip(rows, [*map(trial.values.get, keys), trial.score], strict=True)
        ]
        line = path(np.array(places, dtype=np.float64), np.array(tops))
        kind = f"line {Style.ranked(number, len(scored)).colour}"
        parts.append(linked(trial.target, element("path", d=line, class_=kind), trial.words))
    parts += [row.drawn(top) for row, top in zip(rows, tops, strict=True)]
    return picture(tops[-1] + 24, f"the values of each trial and its {metric}", parts)


@dataclass(frozen=True)
class _Coordinate:
    """One axis of parallel coordinates.

    Attributes:
        name: its label.
        scale: the scale of numbers, or of the numbers of the choices.
        choices: the choices; None for numbers.
        ticks: (value, label) of its ticks.
    """

    name: str
    scale: Scale
    choices: tuple[str, ...] | None
    ticks: Sequence[tuple[float, str]]

    @classmethod
    def of(cls, name: str, values: Sequence[object], logarithmic: bool) -> "_Coordinate":
        """Make the axis that suits some values."""
        numbers = [number for value in values if (number := as_number(value)) is not None]
        if len(numbers) == sum(value is not None for value in values):
            logarithmic = logarithmic and min(numbers) > 0
            scale = Scale.over(numbers, 14, WIDTH - 14, logarithmic=logarithmic, margin=0.0)
            distinct = sorted(set(numbers))
            few = len(distinct) <= _FEW_VALUES
            return cls(name, scale, None, [(each, short(each)) for each in distinct] if few else scale.ticks(5))
        choices = tuple(dict.fromkeys(shown_value(value) for value in values if value is not None))
        scale = Scale.over(range(len(choices)), 40, WIDTH - 40, margin=0.0)
        room = (WIDTH - 80) / max(1, len(choices) - 1) - 6
        ticks = [(float(number), fitting(words, max(24.0, room))) for number, words in enumerate(choices)]
        return cls(name, scale, choices, ticks)

    def place(self, value: object) -> float:
        """Return the position where a line crosses the axis; nan if the trial lacks the value."""
        if self.choices is not None:
            return math.nan if value is None else self.scale.place(self.choices.index(shown_value(value)))
        number = as_number(value)
        return math.nan if number is None else self.scale.place(number)

    def drawn(self, top: float) -> str:
        """Return the axis with its label and ticks as SVG."""
        name = self.name + (", log" if self.scale.logarithmic else "")
        parts = [element("path", d=f"M{self.scale.start:.1f} {top:.1f}H{self.scale.end:.1f}", class_="axis")]
        for value, words in self.ticks:
            place = self.scale.place(value)
            parts.append(element("path", d=f"M{place:.1f} {top:.1f}v4", class_="axis"))
            # A label at an end stays within the picture.
            anchor = "start" if place < _EDGE else "end" if place > WIDTH - _EDGE else "middle"
            parts.append(text(place, top + 14, words, text_anchor=anchor, class_="halo"))
        parts.append(text(2.0, top - 6, fitting(name, WIDTH - 10), class_="name halo"))
        return element("g", "".join(parts), class_="axes")


def draw_importance(shares: Mapping[str, float], correlations: Mapping[str, float]) -> str:
    """Draw the importance of each key, largest first, and its rank correlation with the score where there is one."""
    ordered = sorted(shares.items(), key=lambda item: -item[1])
    x = Scale(0.0, max([value for _, value in ordered if value > 0], default=1.0), 8.0, WIDTH - 60)
    parts = [text(2.0, 12.0, "importance", class_="name")]
    for number, (key, value) in enumerate(ordered):
        top = 22.0 + 34.0 * number
        width = max(x.place(max(value, 0.0)) - x.start, 1.0)
        parts.append(text(8.0, top + 10, fitting(key, WIDTH - 80)))
        if key in correlations:
            parts.append(text(WIDTH - 18, top + 10, f"r {correlations[key]:+.2f}", text_anchor="end"))
        parts.append(element("rect", x=8.0, y=top + 15, width=width, height=10.0, class_="bar"))
        parts.append(text(x.start + width + 6, top + 24, f"{value:.2f}", class_="value"))
    return picture(28.0 + 34.0 * len(ordered), "importance of each key", parts)


def as_number(value: object) -> float | None:
    """Return a number of a configuration key; None for anything else, also for true and false."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def shown_value(value: object) -> str:
    """Return a value of a configuration key in a few characters."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    number = as_number(value)
    return str(value) if number is None else short(number)
