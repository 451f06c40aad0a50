"""Pre-training samples before they are masked.

A sample depends only on the seed, the epoch and its index, so it can be made without those before it.
"""

from abc import ABC, abstractmethod
from functools import lru_cache
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bert_lightning.data.corpus.token_store import TokenStore
from bert_lightning.data.loading.randomness import derive_key, random_bits, uniforms
from bert_lightning.errors import InputError

Tokens = NDArray[np.unsignedinteger]


class Sample(NamedTuple):
    """A text or a pair of texts, without [CLS] and the [SEP] after each text."""

    first: Tokens
    second: Tokens | None
    label: int
    """label of a pair, such as 0 if B follows A and 1 if it does not; meaningless without a second text"""

    @property
    def length(self) -> int:
        """Tokens, [CLS] and [SEP] included."""
        return len(self.first) + (2 if self.second is None else len(self.second) + 3)

    def copied(self) -> "Sample":
        """Return a copy of the tokens. Views would keep the shards they come from in memory."""
        return Sample(self.first.copy(), None if self.second is None else self.second.copy(), self.label)


class NumberedSample(NamedTuple):
    """A sample, its epoch, and its number among the samples of an epoch."""

    epoch: int
    number: int
    sample: Sample


class Draws(NamedTuple):
    """The random numbers of one sample, each uniform in [0, 1)."""

    shortened: float
    """below `short_sequence_probability`, the sample is cut to a random length"""
    short_length: float
    """that length"""
    start: float
    """the start of the sample, near that of its chunk"""
    cut: float
    """the sentence after which a chunk is cut into A and B"""
    label: float
    """the label of a pair"""
    other_document: float
    """the document of a random B"""
    other_sentence: float
    """the sentence in it with which B begins"""
    kept: float
    """which stretch of a text is kept if it is too long"""


class Samples(ABC):
    """All samples of a token store; each is a function of (seed, epoch, index) and is reached in O(1).

    A document of T tokens has ceil(T / room) samples, so an epoch reads each token about once. A sample starts near a
    multiple of `room`, at a random distance from it, so that each epoch cuts the document differently.

    Args:
        store: the corpus.
        max_seq_length: longest sample, special tokens included.
        short_sequence_probability: fraction of samples cut to a random length.
        seed: seed of all random numbers.

    Attributes:
        metric: prefix of the metrics of the sentence head; None if samples are single texts.
        num_special: number of [CLS] and [SEP] in a sample.
        room: longest sample, special tokens excluded.
        num_samples: samples per epoch.
    """

    metric: ClassVar[str | None]
    num_special: ClassVar[int] = 3

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
        """Return the samples of an epoch that have the given indices."""
        shards = np.searchsorted(self._shard_ends, indices, side="right")
        within = indices - np.concatenate(([0], self._shard_ends))[shards]
        keys = random_bits(derive_key(self.seed, epoch, "pairs"), indices)
        draws = uniforms(keys[:, None], np.arange(len(Draws._fields))[None, :])
        return [
            self._sample(shard, index, Draws(*numbers)).copied()
            for shard, index, numbers in zip(shards.tolist(), within.tolist(), draws.tolist(), strict=True)
        ]

    @abstractmethod
    def _count_up(self, shard: int) -> NDArray[np.int64]:
        """Return the samples of a shard up to and including each of its units, such as documents: (units,)."""

    @abstractmethod
    def _sample(self, shard: int, index: int, draws: Draws) -> Sample:
        """Return the sample with an index in a shard."""

    def target_length(self, draws: Draws) -> int:
        """Return the tokens to fill, special tokens excluded: all that fit, or fewer in some samples."""
        if draws.shortened < self.short_sequence_probability:
            return 2 + int(draws.short_length * (self.room - 1))
        return self.room

    def start_position(self, chunk: int, draws: Draws, length: int, target: int) -> int:
        """Return a random position near the start of a chunk in a text of `length` tokens.

        If the text allows it, `target` tokens follow the position.
        """
        start = int((chunk - 0.5 + draws.start) * self.room)
        return min(max(start, 0), max(length - target, 0))


def sentence_at(ends: NDArray[np.uint32], position: int) -> int:
    """Return the number of the sentence that holds a position, which is also how many sentences end before it.

    Args:
        ends: for each sentence the position after its last token.
        position: a token.

    >>> ends = np.array([3, 5, 9], dtype=np.uint32)
    >>> [sentence_at(ends, position) for position in (0, 2, 3, 8)]
    [0, 0, 1, 2]
    """
    # NumPy would convert the whole array if the position had another type.
    return int(ends.searchsorted(ends.dtype.type(position), side="right"))


def sentence_start(ends: NDArray[np.uint32], position: int, room: int, lowest: int = 0) -> int:
    """Return the start of a sample that is drawn at a position: the start of the sentence that holds the position.

    In a sentence of more than `room` tokens, the sample starts at the position itself. Otherwise no sample would ever
    hold the last tokens of such a sentence.

    Args:
        ends: for each sentence the position after its last token.
        position: the token drawn.
        room: tokens that fit into a sample.
        lowest: start of the first sentence.
    """
    number = sentence_at(ends, position)
    start = int(ends[number - 1]) if number else lowest
    return position if int(ends[number]) - start > room else start


class DocumentSamples(Samples):
    """Base of samples that each start in one document."""

    def _count_up(self, shard: int) -> NDArray[np.int64]:
        return np.cumsum(-(-self.store.shard(shard).document_lengths() // self.room))

    def _sample(self, shard: int, index: int, draws: Draws) -> Sample:
        ends = self._counts(shard)
        document = int(ends.searchsorted(index, side="right"))
        chunk = index - (int(ends[document - 1]) if document else 0)
        return self._of_document(self.store.first_document(shard) + document, chunk, draws)

    @abstractmethod
    def _of_document(self, document: int, chunk: int, draws: Draws) -> Sample:
        """Return the sample with the number `chunk` of a document."""
