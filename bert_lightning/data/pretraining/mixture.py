"""A mixture of sources with weights; any sample is reached in O(1)."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bert_lightning.data.loading.randomness import derive_key, permute
from bert_lightning.data.pretraining.samples import NumberedSample, Sample, Samples
from bert_lightning.errors import InputError

# Each block of this many samples holds every source in its proportion, rounded to a thousandth.
BLOCK = 1000


class Mixture:
    """Samples of several sources.

    One index counts the samples of all sources: first those of the first source, then those of the second, and so on.

    Args:
        sources: at least one.
        weights: weight of each source in training, relative to the others.
        dupe_factor: epochs of a source with different samples; later ones repeat them. None if all epochs differ.

    Attributes:
        num_samples: samples of all sources together.

    Raises:
        InputError: a weight is not positive, or so small that its share rounds to 0.
    """

    def __init__(
        self, sources: Sequence[Samples], weights: Sequence[float] = (1.0,), dupe_factor: int | None = None
    ) -> None:
        self.sources = list(sources)
        self._dupe_factor = dupe_factor
        self._ends = np.cumsum([source.num_samples for source in sources])
        self._counts = block_counts(weights)
        self.num_samples = int(self._ends[-1])

    def draw(self, seed: int, start: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Draw samples `start` to `stop` of an endless training.

        Each source is read epoch after epoch, in a random order that differs from epoch to epoch.

        Returns:
            For each sample the epoch in its source (with `dupe_factor`, the earlier epoch that it repeats), and the
            index in the mixture.
        """
        numbers = np.arange(start, stop, dtype=np.int64)
        if len(self.sources) == 1:
            return self._shuffled(self.sources[0], seed, numbers)
        blocks = numbers // BLOCK
        # A slot is a number in a block. Each source has its slots; each block shuffles them.
        slots = np.empty_like(numbers)
        for block in np.unique(blocks):
            in_block = blocks == block
            slots[in_block] = permute(derive_key(seed, int(block), "mixture"), BLOCK, numbers[in_block] % BLOCK)
        slot_ends = np.cumsum(self._counts)
        source_of = np.searchsorted(slot_ends, slots, side="right")
        # The number of each sample among those that training draws from its source.
        ranks = blocks * self._counts[source_of] + slots - (slot_ends - self._counts)[source_of]
        epochs, indices = np.empty_like(numbers), np.empty_like(numbers)
        for number, source in enumerate(self.sources):
            drawn = source_of == number
            epochs[drawn], within = self._shuffled(source, derive_key(seed, number), ranks[drawn])
            indices[drawn] = within + self._first_index(number)
        return epochs, indices

    def samples(self, epochs: NDArray[np.int64], indices: NDArray[np.int64]) -> list[Sample]:
        """Return the samples with the given epochs and indices."""
        samples: list[Sample | None] = [None] * len(indices)
        source_of = np.searchsorted(self._ends, indices, side="right")
        for number, source in enumerate(self.sources):
            for epoch in np.unique(epochs[source_of == number]):
                positions = np.flatnonzero((source_of == number) & (epochs == epoch))
                within = indices[positions] - self._first_index(number)
                for position, sample in zip(positions, source.samples(int(epoch), within), strict=True):
                    samples[position] = sample
        return [sample for sample in samples if sample is not None]

    def numbered_samples(self, epochs: NDArray[np.int64], indices: NDArray[np.int64]) -> list[NumberedSample]:
        """Return the samples with the given epochs and indices, together with these numbers."""
        samples = self.samples(epochs, indices)
        return [NumberedSample(*each) for each in zip(epochs.tolist(), indices.tolist(), samples, strict=True)]

    def _first_index(self, source: int) -> int:
        return int(self._ends[source]) - self.sources[source].num_samples

    def _shuffled(
        self, source: Samples, seed: int, numbers: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the epochs and indices of samples of a source, given their numbers in an endless training."""
        epochs, positions = np.divmod(numbers, source.num_samples)
        drawn = epochs % self._dupe_factor if self._dupe_factor is not None else epochs
        indices = np.empty_like(numbers)
        for epoch in np.unique(epochs).tolist():
            same = epochs == epoch
            # A repeated epoch has the rounds of the first one, because a random B comes from the round of its A.
            first = int(drawn[same][0])
            indices[same] = source.shuffle(derive_key(seed, epoch, "order"), first, positions[same])
        return drawn, indices


def block_counts(weights: Sequence[float]) -> NDArray[np.int64]:
    """Return the samples of each source in a block, by the largest remainders, (sources,).

    Raises:
        InputError: a weight is not positive, or so small that its share rounds to 0.

    >>> block_counts([1, 2])
    array([333, 667])
    """
    if not all(np.isfinite(weight) and weight > 0 for weight in weights):
        raise InputError(f"data.train: the weights are {list(weights)}; each must be a number above 0")
    exact = np.asarray(weights, dtype=np.float64) / np.sum(weights) * BLOCK
    counts = np.floor(exact).astype(np.int64)
    for number in np.argsort(counts - exact, kind="stable")[: BLOCK - counts.sum()]:
        counts[number] += 1
    if not counts.all():
        raise InputError(
            f"data.train: the weights are {list(weights)}; each must be at least a thousandth of their sum"
        )
    return counts
