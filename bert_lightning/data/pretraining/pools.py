"""Pools: the samples of several steps, drawn together and arranged by length, in buckets or in packed bins.

A step consists of bins. With buckets, a bin holds one sample, and the bins of a step have similar lengths. With
packing, a bin holds several samples end to end. The bins of any step depend only on its number: a pool is made from
the numbers of its samples alone.
"""

from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from bert_lightning.data.loading.batching import fit_into_bins
from bert_lightning.data.loading.randomness import derive_key, permute
from bert_lightning.data.pretraining.mixture import Mixture
from bert_lightning.data.pretraining.samples import NumberedSample

# A pool spans as many whole steps as fit into this many bins, at least one. It then has samples of every length.
TARGET_POOL_BINS = 2048
# A batch that is a multiple of 128 bins is divided into up to this many groups of at least this many bins; any other
# batch is one group. Each group has separate pools, so a process builds only those of the groups it needs.
_MAX_GROUPS, _MIN_GROUP_BINS = 16, 64
# Packing is tried on this many samples, to find how many fit into a pool.
_NUM_MEASURED = 2048
# A pool takes this fraction of that number. Lengths vary from pool to pool, and samples that do not fit are lost.
_FILL = 0.993


class Pools:
    """The bins of a training, or of one stage of it.

    A group is a range of bin numbers, the same in every step. The number of groups is a power of two. It depends on
    the batch size alone, not on the number of processes.

    Args:
        mixture: the samples.
        seed: seed of their order.
        batch_size: bins per step.
        max_seq_length: tokens that fit into a bin.
        packed: put several samples into a bin; otherwise one.
        num_steps: steps in all; the last pool may have fewer steps than the others.
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
        self.num_groups = 1
        while self.num_groups < _MAX_GROUPS and batch_size % (2 * self.num_groups * _MIN_GROUP_BINS) == 0:
            self.num_groups *= 2
        self.group_size = batch_size // self.num_groups
        self.steps_per_pool = max(1, TARGET_POOL_BINS // self.group_size)
        self._pool = lru_cache(2 * _MAX_GROUPS)(self._make_pool)

    @property
    def samples_per_step(self) -> float:
        """Samples that a step consumes on average."""
        return self._samples_per_pool * self.num_groups / self.steps_per_pool if self.packed else self.batch_size

    def bin(self, step: int, number: int) -> list[NumberedSample]:
        """Return the samples in one bin of a step."""
        pool, step_of_pool = divmod(step, self.steps_per_pool)
        bins = self._pool(pool, number // self.group_size)
        return bins[step_of_pool * self.group_size + number % self.group_size]

    @cached_property
    def _samples_per_pool(self) -> int:
        """How many samples are drawn for a packed pool: slightly fewer than fit, as measured by bisection."""
        count = min(_NUM_MEASURED, self.mixture.num_samples)
        samples = self.mixture.samples(*self.mixture.draw(derive_key(self.seed, "measured"), 0, count))
        measured = np.array([sample.length for sample in samples], dtype=np.int64)
        num_bins = self.steps_per_pool * self.group_size
        fits, too_many = 1, int(num_bins * self.max_seq_length / measured.mean()) + 1
        while too_many - fits > 1:
            middle = (fits + too_many) // 2
            bins = fit_into_bins(np.resize(measured, middle), num_bins, self.max_seq_length)
            if sum(map(len, bins)) == middle:
                fits = middle
            else:
                too_many = middle
        return max(1, int(_FILL * fits))

    def _make_pool(self, pool: int, group: int) -> list[list[NumberedSample]]:
        """Return the bins of a group in the first step of a pool, then those in its second step, and so on."""
        num_steps = min(self.steps_per_pool, self.num_steps - pool * self.steps_per_pool)
        num_bins = num_steps * self.group_size
        if self.packed:
            start = (pool * self.num_groups + group) * self._samples_per_pool
            count = max(1, self._samples_per_pool * num_steps // self.steps_per_pool)
        else:
            start = pool * self.steps_per_pool * self.batch_size + group * num_bins
            count = num_bins
        samples = self.mixture.numbered_samples(*self.mixture.draw(self.seed, start, start + count))
        lengths = np.array([each.sample.length for each in samples], dtype=np.int64)
        bins = self._packed(lengths, num_bins, pool, group) if self.packed else self._bucketed(lengths, pool, group)
        return [[samples[number] for number in numbers] for numbers in bins]

    def _packed(self, lengths: NDArray[np.int64], num_bins: int, pool: int, group: int) -> list[list[int]]:
        bins = pack(lengths, num_bins, self.max_seq_length)
        order = permute(derive_key(self.seed, pool, group, "rows"), num_bins, np.arange(num_bins))
        return [bins[number] for number in order]

    def _bucketed(self, lengths: NDArray[np.int64], pool: int, group: int) -> list[list[int]]:
        buckets = np.argsort(lengths, kind="stable").reshape(-1, self.group_size)
        order = permute(derive_key(self.seed, pool, "buckets"), len(buckets), np.arange(len(buckets)))
        bins: list[list[int]] = []
        for bucket in order.tolist():
            # Shuffle inside the bucket, so that all processes and micro-batches get samples of similar length.
            key = derive_key(self.seed, pool, group, bucket, "places")
            shuffled = permute(key, self.group_size, np.arange(self.group_size))
            bins += [[number] for number in buckets[bucket][shuffled]]
        return bins


def pack(lengths: NDArray[np.int64], num_bins: int, room: int) -> list[list[int]]:
    """Pack samples into bins of `room` tokens, and return the numbers of the samples in each bin.

    If not all samples fit, the last ones are left out, long or short, so that no length is less frequent.
    """
    while True:
        bins = fit_into_bins(lengths, num_bins, room)
        surplus = len(lengths) - sum(map(len, bins))
        if not surplus:
            return bins
        lengths = lengths[:-surplus]
