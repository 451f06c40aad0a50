"""Curves as numbers: the mean of several seeds with its band, and lines thinned to fewer points."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Line(NamedTuple):
    """A curve of one run: (N,) rising x, and (N,) y."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]


class Band(NamedTuple):
    """The mean of several curves, with the smallest and the largest value, all (N,)."""

    x: NDArray[np.float64]
    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def band(lines: Sequence[Line], most: int) -> Band | None:
    """Return the mean of curves over the x at which all of them have values; None if there is no such x.

    If the curves have the same x, such as steps, these are used. Otherwise the curves are interpolated linearly. The
    band ends where the first curve ends, because the mean of the others would jump.

    Args:
        lines: the curves of the seeds of one arm.
        most: the largest number of points of the result.
    """
    lines = [line for line in lines if len(line.x)]
    if not lines:
        return None
    first = max(float(line.x[0]) for line in lines)
    last = min(float(line.x[-1]) for line in lines)
    if first > last:
        return None
    x = _common(lines, first, last, most)
    values = np.stack([np.interp(x, line.x, line.y) for line in lines])
    return Band(x, values.mean(0), values.min(0), values.max(0))


def _common(lines: Sequence[Line], first: float, last: float, most: int) -> NDArray[np.float64]:
    """Return the x at which curves are compared."""
    x = lines[0].x
    if all(np.array_equal(line.x, x) for line in lines[1:]):
        x = np.unique(x)
        return x if len(x) <= most else x[np.unique(np.linspace(0, len(x) - 1, most).round().astype(int))]
    return np.linspace(first, last, max(2, min(most, max(len(line.x) for line in lines))))


def thinned(line: Line, most: int) -> Line:
    """Return a line with at most `most` points that looks like the given one.

    From each stretch, it keeps the point that forms the largest triangle with the last kept point and the mean of the
    next stretch, so that peaks remain (Steinarsson 2013, "Downsampling Time Series for Visual Representation",
    section 4.2).
    """
    num = len(line.x)
    if num <= most or most < 3:
        return line
    edges = np.linspace(1, num - 1, most - 1).round().astype(int)
    kept = [0]
    for number in range(most - 2):
        start, stop = edges[number], edges[number + 1]
        after = slice(stop, edges[number + 2]) if number + 2 < len(edges) else slice(num - 1, num)
        next_x, next_y = line.x[after].mean(), line.y[after].mean()
        x, y = line.x[kept[-1]], line.y[kept[-1]]
        area = np.abs((x - next_x) * (line.y[start:stop] - y) - (x - line.x[start:stop]) * (next_y - y))
        kept.append(int(start + area.argmax()))
    kept.append(num - 1)
    return Line(line.x[kept], line.y[kept])
