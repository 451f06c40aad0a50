"""A sample of pre-training before it is masked, and how any of them is reached at once."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bert_lightning.data.corpus.token_store import TokenStore
from bert_lightning.data.loading.randomness import derive_key, random_bits, uniforms
from bert_lightning.errors import InputError

Tokens = NDArray[np.unsignedinteger]


class Sample(NamedTuple):
    """The tokens of a sample without [CLS] and the [SEP] behind its parts."""

    first: Tokens
    second: Tokens | None
    label: int
    """0 where B follows A, 1 where it does not; of no meaning where there is no B"""

    @property
    def length(self) -> int:
        """Tokens with [CLS] and [SEP]."""
        return len(self.first) + (2 if self.second is None else len(self.second) + 3)

    def copied(self) -> "Sample":
        """The same in memory of its own: views of many shards at once would keep all of them in memory."""
        return Sample(self.first.copy(), None if self.second is None else self.second.copy(), self.label)


class Samples(ABC):
    """All samples of a token store, each a pure function of (seed, epoch, index), reached in O(1).

    A document of T tokens has ceil(T / room) of them, so an epoch reads each token about once. Where a sample begins
    is drawn around its own place, so that chunks fall differently in each epoch.

    Args:
        store: the corpus.
        max_seq_length: longest sample, special tokens included.
        short_sequence_probability: share of samples cut to a random length.
        seed: of everything random.

    Attributes:
        metric: what the metrics of the sentence head are named by; None where samples are no pairs.
        num_special: [CLS] and [SEP] of a sample.
        num_samples: in all documents.
    """

    metric: ClassVar[str | None]
    num_special: ClassVar[int] = 3
    num_draws: ClassVar[int] = 8

    def __init__(self, store: TokenStore, max_seq_length: int, short_sequence_probability: float, seed: int) -> None:
        self.store = store
        self.short_sequence_probability = short_sequence_probability
        self.seed = seed
        self.room = max_seq_length - self.num_special
        if self.room < 2:
            raise InputError(f"max_seq_length is {max_seq_length}; it must be at least {self.num_special + 2}")
        self._counts = lru_cache(1 << 13)(self._count_up)
        key = (type(self), max_seq_length)
        self._shard_ends = store.totals(key, lambda shard: int(self._count_up(shard)[-1]))
        self.num_samples = int(self._shard_ends[-1])

    def samples(self, epoch: int, indices: NDArray[np.int64]) -> list[Sample]:
        """The samples `indices` of an epoch."""
        shards = np.searchsorted(self._shard_ends, indices, side="right")
        within = indices - np.concatenate(([0], self._shard_ends))[shards]
        keys = random_bits(derive_key(self.seed, epoch, "pairs"), indices)
        draws = uniforms(keys[:, None], np.arange(self.num_draws)[None, :])
        return [
            self._sample(shard, place, draw).copied()
            for shard, place, draw in zip(shards.tolist(), within.tolist(), draws, strict=True)
        ]

    @abstractmethod
    def _count_up(self, shard: int) -> NDArray[np.int64]:
        """(units,) the samples in each unit of a shard and in those before it; the last is that of the shard."""

    @abstractmethod
    def _sample(self, shard: int, place: int, draw: NDArray[np.float64]) -> Sample:
        """Sample `place` of a shard, from its draws (num_draws,)."""

    def _target(self, draw: Sequence[float]) -> int:
        """How many tokens this sample is to have: all there is room for, or now and then fewer."""
        if draw[0] < self.short_sequence_probability:
            return 2 + int(draw[1] * (self.room - 1))
        return self.room

    def _start(self, chunk: int, draw: Sequence[float], length: int, target: int) -> int:
        """Somewhere around the chunk's place, but not so late that the text ends before the sample is full."""
        start = int((chunk - 0.5 + draw[2]) * self.room)
        return min(max(start, 0), max(length - target, 0))


def first_behind(ends: NDArray[np.uint32], token: int) -> int:
    """How many stretches end at a token or before it: the number of the stretch that holds it."""
    # In the array's own type, or the whole of it would be converted first.
    return int(ends.searchsorted(ends.dtype.type(token), side="right"))


def beginning(ends: NDArray[np.uint32], token: int, room: int, lowest: int = 0) -> int:
    """Where a sample begins whose place is `token`: with the sentence that holds it.

    A sentence of more than `room` tokens is entered at the token itself, or what lies behind its first ones would
    never be seen. `lowest` is where the first sentence begins.
    """
    number = first_behind(ends, token)
    start = int(ends[number - 1]) if number else lowest
    return token if int(ends[number]) - start > room else start


class DocumentSamples(Samples):
    """Samples that each lie in one document, or begin in one."""

    def _count_up(self, shard: int) -> NDArray[np.int64]:
        return np.cumsum(-(-self.store.shard(shard).document_lengths() // self.room))

    def _sample(self, shard: int, place: int, draw: NDArray[np.float64]) -> Sample:
        ends = self._counts(shard)
        local = int(ends.searchsorted(place, side="right"))
        chunk = place - (int(ends[local - 1]) if local else 0)
        return self._of_document(self.store.first_document(shard) + local, chunk, draw.tolist())

    @abstractmethod
    def _of_document(self, document: int, chunk: int, draw: list[float]) -> Sample:
        """Sample `chunk` of a document."""
