"""Resampling of examples, or of whole documents: by the bootstrap, and by exchange between two models."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from bert_lightning.errors import InputError
from bert_lightning.studies.statistics.scores import OfMeans, Rows

Score: TypeAlias = Callable[[Rows], float]

# Resamples are drawn in portions of about this many numbers, to limit the memory.
_PORTION = 4_000_000


class Sample(ABC):
    """Examples of one model, or of two models on the same examples, and a score of them.

    With two models, the value is the score of the first minus that of the second.

    Attributes:
        num_groups: number of examples or, if they are grouped, of documents. These are resampled.
    """

    num_groups: int

    @abstractmethod
    def value(self) -> float:
        """Return the score of the examples as they are."""

    @abstractmethod
    def resampled(self, generator: np.random.Generator, num: int) -> Rows:
        """Return the values, (num,), of `num` bootstrap resamples."""

    @abstractmethod
    def without_each(self) -> tuple[Rows, Rows]:
        """Return jackknife values, (k,), each without a group or block of groups, and the weight of each, (k,)."""

    @abstractmethod
    def exchanged(self, generator: np.random.Generator, num: int) -> Rows:
        """Return the values, (num,), after the outputs of random groups were exchanged between the two models."""


def sample_of(parts: Sequence[Rows], score: Score, groups: Sequence[object] | None) -> Sample:
    """Return the sample of one or two models.

    Args:
        parts: rows (examples, columns) of each model.
        score: function from rows to the score.
        groups: the document of each example. Documents are resampled as a whole. None if each example is its own
            group.

    Raises:
        InputError: the models have different numbers of examples, or the number of groups or columns is wrong.
    """
    shapes = [rows.shape for rows in parts]
    if len(set(shapes)) > 1:
        raise InputError(
            f"ours has the shape {shapes[0]}, the baseline {shapes[1]}; both must have the same examples"
        )
    if groups is not None and len(groups) != shapes[0][0]:
        raise InputError(f"there are {len(groups)} groups and {shapes[0][0]} examples")
    numbers = np.arange(shapes[0][0])
    if groups is not None:
        known: dict[object, int] = {}
        numbers = np.array([known.setdefault(group, len(known)) for group in groups])
    if isinstance(score, OfMeans):
        if score.columns is not None and shapes[0][1] != score.columns:
            raise InputError(f"{score.name} needs {score.columns} numbers per example, but there are {shapes[0][1]}")
        if score.columns is None and round(shapes[0][1] ** 0.5) ** 2 != shapes[0][1]:
            raise InputError(
                f"{score.name} needs a confusion matrix: {shapes[0][1]} numbers per example, which must be a square"
            )
        return _Summed(parts, score, numbers)
    return _Listed(parts, score, numbers)


class _Summed(Sample):
    """A sample for a score of means. Groups with equal counts form a kind; only the number of each kind is drawn."""

    def __init__(self, parts: Sequence[Rows], score: OfMeans, numbers: NDArray[np.int64]) -> None:
        self._score, self._columns = score, parts[0].shape[1]
        # The last column counts examples, of which a group may hold several.
        both = np.concatenate([*parts, np.ones((len(numbers), 1))], axis=1)
        self.num_groups = int(numbers.max()) + 1
        sums = np.zeros((self.num_groups, both.shape[1]))
        np.add.at(sums, numbers, both)
        self._kinds, self._counts = np.unique(sums, axis=0, return_counts=True)
        self._total = self._counts @ self._kinds

    def value(self) -> float:
        return float(self._values(self._total))

    def resampled(self, generator: np.random.Generator, num: int) -> Rows:
        shares = self._counts / self.num_groups

        def counted(size: int) -> Rows:
            return np.asarray(generator.multinomial(self.num_groups, shares, size) @ self._kinds)

        def drawn(size: int) -> Rows:
            # This is faster if there are almost as many kinds as groups.
            places = generator.integers(self.num_groups, size=(size, self.num_groups), dtype=np.int32)
            rows = np.repeat(self._kinds, self._counts, axis=0)
            return np.stack([column[places].sum(axis=1) for column in np.ascontiguousarray(rows.T)], axis=1)

        return self._in_portions(num, counted if 4 * len(self._kinds) < self.num_groups else drawn)

    def without_each(self) -> tuple[Rows, Rows]:
        return self._values(self._total - self._kinds), self._counts.astype(np.float64)

    def exchanged(self, generator: np.random.Generator, num: int) -> Rows:
        ours, baseline = self._kinds[:, : self._columns], self._kinds[:, self._columns : -1]
        differing = (ours != baseline).any(axis=1)
        change = np.zeros((int(differing.sum()), self._kinds.shape[1]))
        change[:, : self._columns] = (baseline - ours)[differing]
        change[:, self._columns : -1] = (ours - baseline)[differing]
        counts = self._counts[differing]

        def counted(size: int) -> Rows:
            return np.asarray(self._total + generator.binomial(counts, 0.5, (size, len(counts))) @ change)

        def drawn(size: int) -> Rows:
            every = np.repeat(change, counts, axis=0)
            bits = np.frombuffer(generator.bytes(size * (len(every) // 8 + 1)), np.uint8).reshape(size, -1)
            return np.asarray(self._total + np.unpackbits(bits, axis=1, count=len(every)) @ every)

        return self._in_portions(num, counted if 4 * len(counts) < counts.sum() else drawn)

    def _in_portions(self, num: int, draw: Callable[[int], Rows]) -> Rows:
        most = max(1, _PORTION // self.num_groups)
        return np.concatenate([self._values(draw(min(most, num - start))) for start in range(0, num, most)])

    def _values(self, sums: Rows) -> Rows:
        means = sums[..., :-1] / sums[..., -1:]
        values = self._score.of(means[..., : self._columns])
        if means.shape[-1] == self._columns:
            return values
        return np.asarray(values - self._score.of(means[..., self._columns :]))


class _Listed(Sample):
    """A sample for any score, which is computed from all examples of each resample."""

    # With more jackknife values, computing them would take longer than the resamples.
    _MOST_LEFT_OUT = 1_000

    def __init__(self, parts: Sequence[Rows], score: Score, numbers: NDArray[np.int64]) -> None:
        self._parts, self._score = parts, score
        order = np.argsort(numbers, kind="stable")
        self._members = np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1)
        self.num_groups = len(self._members)

    def value(self) -> float:
        return self._value(self._parts)

    def resampled(self, generator: np.random.Generator, num: int) -> Rows:
        draws = (generator.integers(self.num_groups, size=self.num_groups) for _ in range(num))
        return np.array([self._value_of(draw) for draw in draws])

    def without_each(self) -> tuple[Rows, Rows]:
        blocks = np.array_split(np.arange(self.num_groups), min(self.num_groups, self._MOST_LEFT_OUT))
        values = [self._value_of(np.setdiff1d(np.arange(self.num_groups), block)) for block in blocks]
        return np.array(values), np.ones(len(values))

    def exchanged(self, generator: np.random.Generator, num: int) -> Rows:
        values = []
        ours, baseline = self._parts
        for _ in range(num):
            exchange = np.zeros(len(ours), bool)
            chosen = np.flatnonzero(generator.random(self.num_groups) < 0.5)
            exchange[np.concatenate([self._members[group] for group in chosen] or [np.array([], int)])] = True
            mask = exchange[:, None]
            values.append(self._value([np.where(mask, baseline, ours), np.where(mask, ours, baseline)]))
        return np.array(values)

    def _value_of(self, groups: NDArray[np.int64]) -> float:
        members = np.concatenate([self._members[group] for group in groups])
        return self._value([rows[members] for rows in self._parts])

    def _value(self, parts: Sequence[Rows]) -> float:
        scores = [float(self._score(rows)) for rows in parts]
        if not np.isfinite(scores).all():
            raise InputError("the score of a resample is not finite; define it for every set of examples")
        return scores[0] - scores[1] if len(scores) > 1 else scores[0]
