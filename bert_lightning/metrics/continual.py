"""Measures of continual learning, from the accuracies on every task after every task of a sequence.

A matrix has a row for each task that was learned, in order, and a column for each task that was scored: R[k][j] is
the accuracy on task j after training on task k. A value that was not measured is None. In the formulas of the papers
tasks are counted from 1; T is their number.
"""

from collections.abc import Callable, Mapping, Sequence

Row = Sequence[float | None]
"""The accuracy on each task; None where it was not measured."""
Matrix = Sequence[Row]
"""A row for each task that was learned, and a column for each task."""


def average_accuracy(matrix: Matrix) -> float | None:
    """Return the mean accuracy over all tasks after the last one.

    Lopez-Paz and Ranzato 2017, arXiv 1706.08840, equation 2.

    >>> average_accuracy([[0.9, 0.2], [0.6, 0.8]])
    0.7
    """
    return _mean(matrix[-1])


def backward_transfer(matrix: Matrix) -> float | None:
    """Return the mean change on earlier tasks since they were learned; below 0 is forgetting.

    Lopez-Paz and Ranzato 2017, eq. 3: the mean of R[T][j] - R[j][j] over j < T. It is None for a single task.

    >>> round(backward_transfer([[0.9, 0.2], [0.6, 0.8]]), 12)
    -0.3
    """
    return _mean([_less(matrix[-1][j], matrix[j][j]) for j in range(len(matrix) - 1)])


def forgetting(matrix: Matrix) -> float | None:
    """Return how far the accuracy on earlier tasks has fallen from its best value, on average.

    Chaudhry et al. 2018, arXiv 1801.10112, section 3: the mean over j < T of the maximum of R[l][j] over l < T, less
    R[T][j]. The maximum is over all rows before the last one, also those before task j was learned. It is None for a
    single task.

    >>> round(forgetting([[0.9, 0.2], [0.6, 0.8]]), 12)
    0.3
    """
    losses = []
    for j in range(len(matrix) - 1):
        known = [value for row in matrix[:-1] if (value := row[j]) is not None]
        losses.append(_less(max(known) if known else None, matrix[-1][j]))
    return _mean(losses)


def forward_transfer(matrix: Matrix, untrained: Row | None) -> float | None:
    """Return how much earlier tasks help a task before it is learned.

    Lopez-Paz and Ranzato 2017, eq. 4: the mean of R[j - 1][j] - b[j] over j > 1, where b is the accuracy of the model
    before the first task. Without b it is None.

    >>> round(forward_transfer([[0.9, 0.2], [0.6, 0.8]], [0.5, 0.25]), 12)
    -0.05
    """
    if untrained is None:
        return None
    return _mean([_less(matrix[j - 1][j], untrained[j]) for j in range(1, len(matrix))])


def learning_accuracy(matrix: Matrix) -> float | None:
    """Return the mean accuracy on each task right after it was learned: Riemer et al. 2019, arXiv 1810.11910.

    A method that hinders forgetting may hinder learning too, and this measure shows it.

    >>> round(learning_accuracy([[0.9, 0.2], [0.6, 0.8]]), 12)
    0.85
    """
    return _mean([matrix[j][j] for j in range(len(matrix))])


def measures(matrix: Matrix, untrained: Row | None = None) -> dict[str, float]:
    """Return the measures of a complete sequence by name, without those that are not defined.

    >>> sorted(measures([[0.9, 0.2], [0.6, 0.8]]))
    ['average accuracy', 'backward transfer', 'forgetting', 'learning accuracy']
    """
    values = {name: measure(matrix) for name, measure in _OF_MATRIX.items()}
    values["forward transfer"] = forward_transfer(matrix, untrained)
    return {name: value for name, value in values.items() if value is not None}


_OF_MATRIX: Mapping[str, Callable[[Matrix], float | None]] = {
    "average accuracy": average_accuracy,
    "forgetting": forgetting,
    "backward transfer": backward_transfer,
    "learning accuracy": learning_accuracy,
}


def _less(value: float | None, other: float | None) -> float | None:
    return None if value is None or other is None else value - other


def _mean(values: Row) -> float | None:
    """Return the mean; None if there are no values, or one of them was not measured."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None
