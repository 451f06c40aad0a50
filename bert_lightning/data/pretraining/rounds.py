"""The order of an epoch: sections in random order, and the samples of some sections shuffled together.

A small store is shuffled as a whole. In a large store, each sample would then need its own read from the disk. So an
epoch puts the sections in random order and divides them into rounds of about `ROUND_BYTES`. A round shuffles the
samples of its sections, which come from all over the corpus. A process thus reads each section once per epoch, and
holds those of one round. The order is a function of seed and epoch, so any step is reached without those before it.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bert_lightning.data.corpus.token_store import TokenStore
from bert_lightning.data.loading.randomness import derive_key, permute

# Bytes of a round: 110 sections of four million English characters, or 110 million tokens.
ROUND_BYTES = 1 << 28
# A round has at least about this many sections, however small the share of its store.
MIN_SECTIONS = 16


def num_rounds(store: TokenStore, share: float) -> int:
    """Return the rounds of an epoch of a store; 1 for a small store, and for one of an earlier format.

    Args:
        store: the store.
        share: its share of the memory of all rounds, from 0 to 1.
    """
    if store.num_bytes is None:
        return 1
    return max(1, min(int(np.ceil(store.num_bytes / (ROUND_BYTES * share))), store.num_sections // MIN_SECTIONS))


class _Epoch(NamedTuple):
    """The sections of an epoch in their order."""

    sections: NDArray[np.int64]
    """(sections,) their numbers"""
    ends: NDArray[np.int64]
    """(sections,) the samples up to and including each"""
    rounds: NDArray[np.int64]
    """(sections,) the round of each section, by the number of the section"""


class Rounds:
    """The order of the samples of a store in each epoch.

    Args:
        counts: samples of each section, (sections,).
        num_rounds: rounds of an epoch. With a single one, the samples of all sections are shuffled together.
        seed: seed of the order, unless there is a single round.

    Attributes:
        num_samples: samples of an epoch.
        num_rounds: rounds of an epoch.
    """

    def __init__(self, counts: NDArray[np.int64], num_rounds: int, seed: int) -> None:
        self.num_rounds = num_rounds
        self.seed = seed
        self._counts = counts
        self._ends = np.cumsum(counts)
        self.num_samples = int(self._ends[-1])
        # The first place of each round among the sections in their order, and the number of sections.
        self._bounds = np.arange(num_rounds + 1) * len(counts) // num_rounds
        self._epoch = lru_cache(2)(self._make_epoch)

    def locate(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the sections of samples, and their indices in the sections."""
        sections = self._ends.searchsorted(indices, side="right")
        return sections, indices - (self._ends[sections] - self._counts[sections])

    def indices(self, key: int, epoch: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the indices of the samples at some positions of an epoch; `key` orders a single round."""
        if self.num_rounds == 1:
            return permute(key, self.num_samples, positions)
        order = self._epoch(epoch)
        starts = np.concatenate(([0], order.ends))[self._bounds]
        rounds = starts.searchsorted(positions, side="right") - 1
        indices = np.empty_like(positions)
        for number in np.unique(rounds).tolist():
            same = rounds == number
            start, length = int(starts[number]), int(starts[number + 1] - starts[number])
            round_key = derive_key(self.seed, epoch, number, "round")
            shuffled = start + permute(round_key, length, positions[same] - start)
            places = order.ends.searchsorted(shuffled, side="right")
            sections = order.sections[places]
            indices[same] = shuffled - order.ends[places] + self._ends[sections]
        return indices

    def round_of(self, epoch: int, section: int) -> int:
        """Return the round that reads a section in an epoch."""
        return int(self._epoch(epoch).rounds[section]) if self.num_rounds > 1 else 0

    def sections_of(self, epoch: int, number: int) -> NDArray[np.int64]:
        """Return the sections of a round in ascending order."""
        if self.num_rounds == 1:
            return np.arange(len(self._counts))
        return np.sort(self._epoch(epoch).sections[self._bounds[number] : self._bounds[number + 1]])

    def _make_epoch(self, epoch: int) -> _Epoch:
        key = derive_key(self.seed, epoch, "sections")
        sections = permute(key, len(self._counts), np.arange(len(self._counts)))
        rounds = np.empty_like(sections)
        rounds[sections] = np.repeat(np.arange(self.num_rounds), np.diff(self._bounds))
        return _Epoch(sections, np.cumsum(self._counts[sections]), rounds)


class Documents:
    """The documents of some sections, from which a random one is drawn.

    Args:
        store: the store.
        sections: numbers of sections in ascending order.
    """

    def __init__(self, store: TokenStore, sections: NDArray[np.int64]) -> None:
        self._firsts = np.array([store.first_document(section) for section in sections.tolist()], dtype=np.int64)
        counts = np.array([store.first_document(section + 1) for section in sections.tolist()]) - self._firsts
        self._ends = np.cumsum(counts)
        self.num_documents = int(self._ends[-1])

    def other(self, first: int, last: int, draw: float) -> int | None:
        """Return a random document outside of the range from `first` to `last`; None if there is none.

        Args:
            first: number of a document.
            last: number of a document.
            draw: decides which, in [0, 1).
        """
        before = self._rank(first)
        num_left_out = self._rank(last + 1) - before
        if num_left_out == self.num_documents:
            return None
        number = int(draw * (self.num_documents - num_left_out))
        if number >= before:
            number += num_left_out
        place = int(self._ends.searchsorted(number, side="right"))
        start = int(self._ends[place - 1]) if place else 0
        return int(self._firsts[place]) + number - start

    def _rank(self, document: int) -> int:
        """Return how many of the documents come before a document."""
        place = int(self._firsts.searchsorted(document, side="right")) - 1
        if place < 0:
            return 0
        start = int(self._ends[place - 1]) if place else 0
        return min(start + document - int(self._firsts[place]), int(self._ends[place]))
