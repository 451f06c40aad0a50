"""Figures of a sequence: the accuracy on one task after each task that was learned."""

from collections.abc import Sequence

import numpy as np

from bert_lightning.reports.figures.scales import Scale
from bert_lightning.reports.figures.svg import Style, axes, element, fitting, framed, path, picture, title
from bert_lightning.reports.results import AccuracyMatrix

_HEIGHT = 250.0
# Edges of the frame.
_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 362.0, 26.0, 208.0


def draw_task(number: int, matrices: Sequence[AccuracyMatrix], styles: Sequence[Style]) -> str:
    """Draw the scores of all arms on one task, against the tasks that were learned.

    Args:
        number: number of the task, from 0.
        matrices: those of the arms.
        styles: the look of each arm.
    """
    tasks = matrices[0].tasks
    columns = [[row[number] for row in matrix.cells] for matrix in matrices]
    values = [value for column in columns for cell in column if cell is not None for value in cell.values.values()]
    x = Scale(-0.3, len(tasks) - 0.7, _LEFT, _RIGHT)
    y = Scale.over(values, _BOTTOM, _TOP)
    width = (_RIGHT - _LEFT) / len(tasks)
    labels = [(float(place), fitting(name, width)) for place, name in enumerate(tasks)]
    lines = []
    for matrix, column, style in zip(matrices, columns, styles, strict=True):
        known = [(place, cell) for place, cell in enumerate(column) if cell is not None and cell.mean is not None]
        if not known:
            continue
        right = np.array([x.place(float(place)) for place, _ in known])
        means = np.array([y.place(float(cell.mean or 0.0)) for _, cell in known])
        low, high = (
            np.array([y.place(pick(list(cell.values.values()))) for _, cell in known]) for pick in (min, max)
        )
        outline = np.concatenate([high, low[::-1]])
        parts = [element("path", d=path(np.concatenate([right, right[::-1]]), outline) + "z", class_="band")]
        words = title(f"{matrix.label}: mean of {known[-1][1].n}")
        parts.append(element("path", words, d=path(right, means), class_="line mean", stroke_dasharray=style.dashes))
        marks = "".join(style.mark(*place, 2.8) for place in zip(right.tolist(), means.tolist(), strict=True))
        parts.append(element("path", d=marks, class_="mark mean"))
        lines.append(element("g", "".join(parts), class_=style.colour))
    frame = axes(x, y, "after learning", f"score on {tasks[number]}", labels=labels)
    start = x.place(float(number))
    learned = element("path", title("learned here"), d=f"M{start:.1f} {_TOP:.1f}V{_BOTTOM:.1f}", class_="guess")
    named = ", ".join(matrix.label for matrix in matrices)
    words = f"scores on {tasks[number]} over the sequence of {named}"
    return picture(_HEIGHT, words, [frame, framed(x, y, [learned, *lines])])
