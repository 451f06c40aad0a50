"""Pairs of texts for two objectives: does B follow A, and are A and B in order?"""

from functools import cached_property, lru_cache
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bert_lightning.data.corpus.store_files import ReadableSection
from bert_lightning.data.corpus.token_store import TokenStore
from bert_lightning.data.loading.encoding import pair_lengths
from bert_lightning.data.pretraining.rounds import Documents
from bert_lightning.data.pretraining.samples import (
    DocumentSamples,
    Draws,
    Sample,
    Tokens,
    sentence_at,
    sentence_start,
)
from bert_lightning.errors import InputError

IS_NEXT, IS_RANDOM = 0, 1
IN_ORDER, SWAPPED = 0, 1
# Rounds whose documents are kept counted.
_NUM_NEAR = 4


class SentencePairs(DocumentSamples):
    """Next-sentence pairs (`create_pretraining_data.py`; BERT, arXiv:1810.04805, section 3.1).

    A chunk of consecutive sentences is cut at random into A and B. Half of the time B is replaced by text of another
    document. Some pairs are made short.

    Four faults of the original are corrected:

    - B never comes from the document of A if it is labelled random.
    - A chunk of one sentence is extended by a neighbour. Only documents of a single sentence always have a random B.
    - A pair may start anywhere in a sentence that is longer than the pair, not only at the start of the sentence.
    - Any stretch of a text may be kept when it is cut. The original chooses the end to cut at random for each token,
      so it nearly always keeps the middle.

    Raises:
        InputError: there are fewer than two documents.
    """

    metric: ClassVar[str | None] = "nsp"

    def __init__(
        self,
        store: TokenStore,
        max_seq_length: int,
        short_sequence_probability: float,
        seed: int,
        share: float = 1.0,
    ) -> None:
        super().__init__(store, max_seq_length, short_sequence_probability, seed, share)
        self._near = lru_cache(_NUM_NEAR)(self._make_near)
        first, last = store.same_document(0)
        if last - first + 1 == store.num_documents:
            raise InputError(
                f"{store.path}: the corpus is too small for one pair: a random second text comes from another "
                "document, but there is only 1. Plain text in paragraphs counts each file as one document; with "
                "`prepare --layout sentences` a blank line separates documents"
            )

    @cached_property
    def _all(self) -> Documents:
        return Documents(self.store, np.arange(self.store.num_sections))

    def _make_near(self, epoch: int, number: int) -> Documents:
        if self.rounds.num_rounds == 1:
            return self._all
        return Documents(self.store, self.rounds.sections_of(epoch, number))

    def _of_document(self, epoch: int, document: int, chunk: int, draws: Draws) -> Sample:
        target = self.target_length(draws)
        section, start, middle, stop = _cut_chunk(self, document, chunk, draws, target)
        a, b = section.read(start, middle), section.read(middle, stop)
        label = IS_NEXT
        # No B can follow in a document of one sentence.
        if middle == stop or draws.label < 0.5:
            b, label = self._random_second(epoch, document, draws, target - len(a)), IS_RANDOM
        return Sample(*truncate_pair(a, b, self.room, draws.kept), label)

    def _random_second(self, epoch: int, document: int, draws: Draws, target: int) -> Tokens:
        """Return whole sentences of another document, from a random sentence on, until there are `target` tokens.

        There is at least one sentence. The document is drawn from the sections of this round, which are read anyway;
        if they hold no other document, from the whole store.
        """
        first, last = self.store.same_document(document)
        near = self._near(epoch, self.rounds.round_of(epoch, self.store.section_of(document)))
        other = near.other(first, last, draws.other_document)
        if other is None:
            other = self._all.other(first, last, draws.other_document)
        assert other is not None, "the constructor has found two documents"
        section, begin, end, offset = self.store.locate(other)
        ends = section.sentences[begin:end]
        sentence = int(draws.other_sentence * len(ends))
        start = int(ends[sentence - 1]) if sentence else offset
        final = min(int(ends.searchsorted(ends.dtype.type(start + max(target, 1)))), len(ends) - 1)
        return section.read(start, int(ends[final]))


class OrderedPairs(DocumentSamples):
    """Consecutive texts of a document, swapped half of the time; ALBERT (arXiv:1909.11942), section 3.1.

    A document of one sentence is cut in its middle. A document of one token has no pair.

    Raises:
        InputError: no document has two tokens.
    """

    metric: ClassVar[str | None] = "sop"

    def __init__(
        self,
        store: TokenStore,
        max_seq_length: int,
        short_sequence_probability: float,
        seed: int,
        share: float = 1.0,
    ) -> None:
        super().__init__(store, max_seq_length, short_sequence_probability, seed, share)
        if not self.num_samples:
            raise InputError(f"{store.path}: the corpus is too small for one pair: no document has two tokens")

    def _section_counts(self) -> NDArray[np.int64]:
        return self.store.chunk_counts(self.room) - self.store.single_counts()

    def _count_up(self, section: int) -> NDArray[np.int64]:
        lengths = self.store.section(section).document_lengths()
        return np.cumsum(np.where(lengths > 1, -(-lengths // self.room), 0))

    def _of_document(self, epoch: int, document: int, chunk: int, draws: Draws) -> Sample:
        section, start, middle, stop = _cut_chunk(self, document, chunk, draws, self.target_length(draws))
        if middle == stop:
            middle = start + (stop - start) // 2
        a, b = truncate_pair(section.read(start, middle), section.read(middle, stop), self.room, draws.kept)
        return Sample(b, a, SWAPPED) if draws.label < 0.5 else Sample(a, b, IN_ORDER)


class _Chunk(NamedTuple):
    """Consecutive sentences of a document, cut between two of them."""

    section: ReadableSection
    """the section that holds the tokens"""
    start: int
    """the first token"""
    middle: int
    """the first token of the second half; `stop` if there is only one sentence"""
    stop: int
    """the position after the last token"""


def _cut_chunk(samples: DocumentSamples, document: int, chunk: int, draws: Draws, target: int) -> _Chunk:
    """Take consecutive sentences of about `target` tokens, and cut them in two at a random sentence end."""
    section, begin, end, offset = samples.store.locate(document)
    ends = section.sentences[begin:end]
    position = samples.start_position(chunk, draws, int(ends[-1]) - offset, target) + offset
    start = sentence_start(ends, position, samples.room, offset)
    first = sentence_at(ends, start)
    last = min(int(ends.searchsorted(ends.dtype.type(start + target))) + 1, len(ends))
    if last - first == 1 and len(ends) > 1:
        if last < len(ends):
            last += 1
        else:
            first -= 1
            before = int(ends[first - 1]) if first else offset
            start = max(before, int(ends[first]) - samples.room)
    stop = int(ends[last - 1])
    num_cuts = last - first - 1
    middle = int(ends[first + int(draws.cut * num_cuts)]) if num_cuts else stop
    return _Chunk(section, start, middle, stop)


def truncate_pair(a: Tokens, b: Tokens, limit: int, draw: float) -> tuple[Tokens, Tokens]:
    """Cut the longer text (at equal lengths B) until a pair has at most `limit` tokens, as the original does.

    One stretch of a text is kept; `draw`, in [0, 1), decides which one.

    >>> truncate_pair(np.arange(6), np.arange(10, 12), limit=5, draw=0.5)
    (array([2, 3, 4]), array([10, 11]))
    """
    keep_a, keep_b = pair_lengths(len(a), len(b), limit)
    return _stretch(a, keep_a, draw), _stretch(b, keep_b, draw)


def _stretch(tokens: Tokens, length: int, draw: float) -> Tokens:
    start = int(draw * (len(tokens) - length + 1)) if len(tokens) > length else 0
    return tokens[start : start + length]
