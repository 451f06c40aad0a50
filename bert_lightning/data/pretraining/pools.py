"""Samples arranged by length: those of some steps are drawn together, then sorted into buckets or packed into rows.

Any row of any step is still a pure function of its number: a window is made from the numbers of its samples alone.
"""

from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bert_lightning.data.loading.batching import fit_into_rows
from bert_lightning.data.loading.randomness import derive_key, permute
from bert_lightning.data.pretraining.mixture import Mixture
from bert_lightning.data.pretraining.samples import Sample

# Samples are arranged among no fewer rows than these, so that short ones find each other.
MIN_WINDOW_ROWS = 2048
# A step's rows are arranged in at most so many lanes of at least so many rows: a rank need not see the others'.
_MAX_LANES, _MIN_LANE_ROWS = 16, 64
_NUM_MEASURED = 2048
# Of the samples that fitted when measured: what does not fit in the end is lost, and there is a spread.
_FILL = 0.993


class Drawn(NamedTuple):
    """A sample, and where it comes from: its epoch and its number in the mixture."""

    epoch: int
    number: int
    sample: Sample


class Windows:
    """The rows of a training, or of a stage of it.

    A lane is always the same part of each step's rows; there are as many, a power of two, as the batch size allows,
    whatever the number of ranks.

    Args:
        mixture: where samples come from.
        seed: of their order.
        batch_size: rows of a step.
        max_seq_length: tokens that a row has room for.
        packed: several samples a row, as they fit; else one, rows of about one length in a step.
        num_steps: of the training; its last window is shorter.
    """

    def __init__(
        self, mixture: Mixture, seed: int, batch_size: int, max_seq_length: int, packed: bool, num_steps: int
    ) -> None:
        self.mixture = mixture
        self.seed = seed
        self.batch_size = batch_size
        self.max_seq_length = max_seq_length
        self.packed = packed
        self.num_steps = num_steps
        self.num_lanes = 1
        while self.num_lanes < _MAX_LANES and batch_size % (2 * self.num_lanes * _MIN_LANE_ROWS) == 0:
            self.num_lanes *= 2
        self.lane_rows = batch_size // self.num_lanes
        self.window_steps = max(1, MIN_WINDOW_ROWS // self.lane_rows)
        self._window = lru_cache(2 * _MAX_LANES)(self._make)

    @property
    def samples_per_step(self) -> float:
        """How many samples a step consumes."""
        return self._lane_samples * self.num_lanes / self.window_steps if self.packed else self.batch_size

    def row(self, step: int, row: int) -> list[Drawn]:
        """The samples in a row of a step."""
        window, place = divmod(step, self.window_steps)
        rows = self._window(window, row // self.lane_rows)
        return rows[place * self.lane_rows + row % self.lane_rows]

    @cached_property
    def _lane_samples(self) -> int:
        """How many samples a lane of a packed window takes: as many of some measured ones as its rows can hold."""
        count = min(_NUM_MEASURED, self.mixture.num_samples)
        samples = self.mixture.samples(*self.mixture.draw(derive_key(self.seed, "measured"), 0, count))
        measured = np.array([sample.length for sample in samples], dtype=np.int64)
        num_rows = self.window_steps * self.lane_rows
        fits, too_many = 1, int(num_rows * self.max_seq_length / measured.mean()) + 1
        while too_many - fits > 1:
            middle = (fits + too_many) // 2
            rows = fit_into_rows(np.resize(measured, middle), num_rows, self.max_seq_length)
            if sum(map(len, rows)) == middle:
                fits = middle
            else:
                too_many = middle
        return max(1, int(_FILL * fits))

    def _make(self, window: int, lane: int) -> list[list[Drawn]]:
        """A lane's rows of a window's first step, of its second, ..."""
        steps = min(self.window_steps, self.num_steps - window * self.window_steps)
        num_rows = steps * self.lane_rows
        if self.packed:
            start = (window * self.num_lanes + lane) * self._lane_samples
            count = max(1, self._lane_samples * steps // self.window_steps)
        else:
            start = window * self.window_steps * self.batch_size + lane * num_rows
            count = num_rows
        epochs, indices = self.mixture.draw(self.seed, start, start + count)
        samples = self.mixture.samples(epochs, indices)
        drawn = [Drawn(*each) for each in zip(epochs.tolist(), indices.tolist(), samples, strict=True)]
        lengths = np.array([sample.length for sample in samples], dtype=np.int64)
        arranged = (
            self._packed(lengths, num_rows, window, lane) if self.packed else self._sorted(lengths, window, lane)
        )
        return [[drawn[number] for number in row] for row in arranged]

    def _packed(self, lengths: NDArray[np.int64], num_rows: int, window: int, lane: int) -> list[list[int]]:
        rows = packed_rows(lengths, num_rows, self.max_seq_length)
        order = permute(derive_key(self.seed, window, lane, "rows"), num_rows, np.arange(num_rows))
        return [rows[row] for row in order]

    def _sorted(self, lengths: NDArray[np.int64], window: int, lane: int) -> list[list[int]]:
        by_length = np.argsort(lengths, kind="stable").reshape(-1, self.lane_rows)
        steps = permute(derive_key(self.seed, window, "buckets"), len(by_length), np.arange(len(by_length)))
        rows: list[list[int]] = []
        for step in steps.tolist():
            # In random order, so that the parts given to ranks and micro-batches are alike.
            key = derive_key(self.seed, window, lane, step, "places")
            rows += [[number] for number in by_length[step][permute(key, self.lane_rows, np.arange(self.lane_rows))]]
        return rows


def packed_rows(lengths: NDArray[np.int64], num_rows: int, room: int) -> list[list[int]]:
    """Samples in rows; where they do not all fit, those drawn last are left out, whatever their length."""
    while True:
        rows = fit_into_rows(lengths, num_rows, room)
        surplus = len(lengths) - sum(map(len, rows))
        if not surplus:
            return rows
        lengths = lengths[:-surplus]
