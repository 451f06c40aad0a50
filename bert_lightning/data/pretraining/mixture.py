"""Several sources of samples as one, each with its share, any sample reached in O(1)."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bert_lightning.data.loading.batching import shuffled
from bert_lightning.data.loading.randomness import derive_key, permute
from bert_lightning.data.pretraining.samples import Sample, Samples
from bert_lightning.errors import InputError

# Shares are kept exactly in every block of so many samples, so they are rounded to a thousandth.
BLOCK = 1000


class Mixture:
    """Sources one after the other: sample `index` of all is counted through them.

    Args:
        sources: at least one.
        weights: the share of each in training, relative to the others; one source needs none.

    Attributes:
        num_samples: of all sources together.

    Raises:
        InputError: a weight is not positive, or less than half a thousandth of all.
    """

    def __init__(self, sources: Sequence[Samples], weights: Sequence[float] = (1.0,)) -> None:
        self.sources = list(sources)
        self._ends = np.cumsum([source.num_samples for source in sources])
        self._counts = block_counts(weights)
        self.num_samples = int(self._ends[-1])

    def draw(self, seed: int, start: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Samples `start` to `stop` of an endless training: the epoch of each in its source, and its index.

        Each source is gone through in an order of its own, epoch after epoch.
        """
        numbers = np.arange(start, stop, dtype=np.int64)
        if len(self.sources) == 1:
            return shuffled(seed, self.num_samples, numbers)
        slots = np.empty_like(numbers)
        for block in np.unique(numbers // BLOCK):
            at = numbers // BLOCK == block
            slots[at] = permute(derive_key(seed, int(block), "mixture"), BLOCK, numbers[at] % BLOCK)
        ends = np.cumsum(self._counts)
        chosen = np.searchsorted(ends, slots, side="right")
        # Each of a source's slots in a block is one more of its samples.
        ranks = numbers // BLOCK * self._counts[chosen] + slots - (ends - self._counts)[chosen]
        epochs, indices = np.empty_like(numbers), np.empty_like(numbers)
        for number, source in enumerate(self.sources):
            at = chosen == number
            epochs[at], own = shuffled(derive_key(seed, number), source.num_samples, ranks[at])
            indices[at] = own + (int(self._ends[number]) - source.num_samples)
        return epochs, indices

    def samples(self, epochs: NDArray[np.int64], indices: NDArray[np.int64]) -> list[Sample]:
        """The samples of some epochs and indices."""
        found: list[Sample | None] = [None] * len(indices)
        chosen = np.searchsorted(self._ends, indices, side="right")
        for number, source in enumerate(self.sources):
            for epoch in np.unique(epochs[chosen == number]):
                rows = np.flatnonzero((chosen == number) & (epochs == epoch))
                own = indices[rows] - (int(self._ends[number]) - source.num_samples)
                for row, sample in zip(rows, source.samples(int(epoch), own), strict=True):
                    found[row] = sample
        return [sample for sample in found if sample is not None]


def block_counts(weights: Sequence[float]) -> NDArray[np.int64]:
    """(sources,) samples of each in a block, by largest remainder.

    Raises:
        InputError: as `Mixture`.
    """
    if not all(np.isfinite(weight) and weight > 0 for weight in weights):
        raise InputError(f"data.train: the weights of a mixture must be more than 0, not {list(weights)}")
    exact = np.asarray(weights, dtype=np.float64) / np.sum(weights) * BLOCK
    counts = np.floor(exact).astype(np.int64)
    for number in np.argsort(counts - exact, kind="stable")[: BLOCK - counts.sum()]:
        counts[number] += 1
    if not counts.all():
        raise InputError(f"data.train: a weight is less than a thousandth of all: {list(weights)}")
    return counts
