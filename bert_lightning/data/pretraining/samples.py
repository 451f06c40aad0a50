"""Pre-training samples before they are masked.

A sample depends only on the seed, the epoch and its index, so it can be made without those before it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property, lru_cache
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bert_lightning.data.corpus.token_store import TokenStore
from bert_lightning.data.loading.randomness import derive_key, random_bits, uniforms
from bert_lightning.data.pretraining.rounds import Rounds, num_rounds
from bert_lightning.errors import InputError

Tokens = NDArray[np.unsignedinteger]
# Sections whose documents are kept counted.
_NUM_COUNTED = 1 << 9
# Sections are kept in memory until they fill this many rounds.
_HELD_ROUNDS = 1.25


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
        """Return a copy of the tokens. Views would keep the sections they come from in memory."""
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
        share: share of this store in a mixture of several. Its rounds have this share of the memory of all rounds.

    Attributes:
        metric: prefix of the metrics of the sentence head; None if samples are single texts.
        num_special: number of [CLS] and [SEP] in a sample.
        room: longest sample, special tokens excluded.
        num_samples: samples per epoch.
        rounds: the order of an epoch.
    """

    metric: ClassVar[str | None]
    num_special: ClassVar[int] = 3

    def __init__(
        self,
        store: TokenStore,
        max_seq_length: int,
        short_sequence_probability: float,
        seed: int,
        share: float = 1.0,
    ) -> None:
        self.store = store
        self.short_sequence_probability = short_sequence_probability
        self.seed = seed
        self.room = max_seq_length - self.num_special
        if self.room < 2:
            raise InputError(f"max_seq_length is {max_seq_length}; it must be at least {self.num_special + 2}")
        self.rounds = Rounds(self._section_counts(), num_rounds(store, share), seed)
        if store.num_bytes is not None:
            # Two rounds meet in a batch, and sections have different sizes.
            store.hold(int(_HELD_ROUNDS * store.num_bytes / self.rounds.num_rounds))
        self.num_samples = self.rounds.num_samples

    def shuffle(self, key: int, epoch: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the indices of the samples at some positions of an epoch.

        Args:
            key: key of the order, if it has a single round. The order of several rounds depends on the seed of the
                samples instead, because a random B comes from the round of its A.
            epoch: the epoch.
            positions: from 0 to the number of samples.
        """
        return self.rounds.indices(key, epoch, positions)

    def samples(self, epoch: int, indices: NDArray[np.int64]) -> list[Sample]:
        """Return the samples of an epoch that have the given indices."""
        sections, within = self.rounds.locate(indices)
        keys = random_bits(derive_key(self.seed, epoch, "pairs"), indices)
        draws = uniforms(keys[:, None], np.arange(len(Draws._fields))[None, :])
        return [
            self._sample(epoch, section, index, Draws(*numbers)).copied()
            for section, index, numbers in zip(sections.tolist(), within.tolist(), draws.tolist(), strict=True)
        ]

    @abstractmethod
    def _section_counts(self) -> NDArray[np.int64]:
        """Return the number of samples of each section, (sections,)."""

    @abstractmethod
    def _sample(self, epoch: int, section: int, index: int, draws: Draws) -> Sample:
        """Return the sample of an epoch with an index in a section."""

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

    @cached_property
    def _counts(self) -> Callable[[int], NDArray[np.int64]]:
        return lru_cache(_NUM_COUNTED)(self._count_up)

    def _section_counts(self) -> NDArray[np.int64]:
        return self.store.chunk_counts(self.room)

    def _count_up(self, section: int) -> NDArray[np.int64]:
        """Return the samples of a section up to and including each of its documents: (documents,)."""
        return np.cumsum(-(-self.store.section(section).document_lengths() // self.room))

    def _sample(self, epoch: int, section: int, index: int, draws: Draws) -> Sample:
        ends = self._counts(section)
        document = int(ends.searchsorted(index, side="right"))
        chunk = index - (int(ends[document - 1]) if document else 0)
        return self._of_document(epoch, self.store.first_document(section) + document, chunk, draws)

    @abstractmethod
    def _of_document(self, epoch: int, document: int, chunk: int, draws: Draws) -> Sample:
        """Return the sample of an epoch with the number `chunk` of a document."""
