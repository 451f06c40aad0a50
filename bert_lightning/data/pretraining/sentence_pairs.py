"""Pairs of text: does B follow A, or are they in order?"""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from bert_lightning.data.corpus.token_store import Shard, TokenStore
from bert_lightning.data.loading.encoding import pair_lengths
from bert_lightning.data.pretraining.samples import DocumentSamples, Sample, Tokens, beginning, first_behind
from bert_lightning.errors import InputError

IS_NEXT, IS_RANDOM = 0, 1
IN_ORDER, SWAPPED = 0, 1


class SentencePairs(DocumentSamples):
    """Next-sentence pairs, as published (`create_pretraining_data.py`, paper section 3.1).

    A chunk of consecutive sentences is cut at random into A and B, or half of the time B is replaced by text of
    another document; now and then the pair is made short. Four faults of the original are corrected: B never comes
    from A's own document when it is labelled random; a chunk of one sentence takes a neighbour, so that only
    documents of a single sentence are always random; a sentence longer than the pair is entered anywhere; and of a
    part that is cut, any stretch may be kept, where coins token by token all but always keep its middle.

    Raises:
        InputError: fewer than two documents.
    """

    metric: ClassVar[str | None] = "nsp"

    def __init__(self, store: TokenStore, max_seq_length: int, short_sequence_probability: float, seed: int) -> None:
        super().__init__(store, max_seq_length, short_sequence_probability, seed)
        first, last = store.same_document(0)
        if last - first + 1 == store.num_documents:
            raise InputError(
                f"{store.path}: the corpus is too small for one pair: a random second part comes from another "
                "document, but there is only 1. Plain text in paragraphs counts each file as one document; with "
                "`prepare --layout sentences` a blank line separates documents"
            )

    def _of_document(self, document: int, chunk: int, draw: list[float]) -> Sample:
        target = self._target(draw)
        chunk_of = _Chunk(self, document, chunk, draw, target)
        start, middle, stop = chunk_of.start, chunk_of.middle, chunk_of.stop
        a = chunk_of.shard.tokens[start:middle]
        # Nothing can follow where the document has no second sentence.
        if middle == stop or draw[4] < 0.5:
            b = self._random_second(document, draw, target - (middle - start))
            return Sample(*truncated(a, b, self.room, draw[7]), IS_RANDOM)
        return Sample(*truncated(a, chunk_of.shard.tokens[middle:stop], self.room, draw[7]), IS_NEXT)

    def _random_second(self, document: int, draw: list[float], target: int) -> Tokens:
        """Whole sentences of another document from a random one on, until `target` tokens; at least one sentence."""
        first, last = self.store.same_document(document)
        others = self.store.num_documents - (last - first + 1)
        other = int(draw[5] * others)
        if other >= first:
            other += last - first + 1
        shard, begin, end, offset = self.store.locate(other)
        ends = shard.sentences[begin:end]
        sentence = int(draw[6] * len(ends))
        start = int(ends[sentence - 1]) if sentence else offset
        final = min(int(ends.searchsorted(ends.dtype.type(start + max(target, 1)))), len(ends) - 1)
        return shard.tokens[start : int(ends[final])]


class OrderedPairs(DocumentSamples):
    """Two consecutive stretches of a document, swapped half of the time; ALBERT (Lan et al. 2020), section 3.1.

    A document of one sentence is cut in its middle; one of a single token has no pair.

    Raises:
        InputError: no document has two tokens.
    """

    metric: ClassVar[str | None] = "sop"

    def _count_up(self, shard: int) -> NDArray[np.int64]:
        lengths = self.store.shard(shard).document_lengths()
        return np.cumsum(np.where(lengths > 1, -(-lengths // self.room), 0))

    def __init__(self, store: TokenStore, max_seq_length: int, short_sequence_probability: float, seed: int) -> None:
        super().__init__(store, max_seq_length, short_sequence_probability, seed)
        if not self.num_samples:
            raise InputError(f"{store.path}: the corpus is too small for one pair: no document has two tokens")

    def _of_document(self, document: int, chunk: int, draw: list[float]) -> Sample:
        chunk_of = _Chunk(self, document, chunk, draw, self._target(draw))
        start, middle, stop = chunk_of.start, chunk_of.middle, chunk_of.stop
        if middle == stop:
            middle = start + (stop - start) // 2
        tokens = chunk_of.shard.tokens
        a, b = truncated(tokens[start:middle], tokens[middle:stop], self.room, draw[7])
        return Sample(b, a, SWAPPED) if draw[4] < 0.5 else Sample(a, b, IN_ORDER)


class _Chunk:
    """Consecutive sentences of a document, about `target` tokens of them, cut between two at random.

    Attributes:
        shard: where its tokens lie.
        start: its first token.
        middle: the first token of its second half; `stop` where the document has one sentence alone.
        stop: behind its last token.
    """

    shard: Shard

    def __init__(self, samples: DocumentSamples, document: int, chunk: int, draw: list[float], target: int) -> None:
        self.shard, begin, end, offset = samples.store.locate(document)
        ends = self.shard.sentences[begin:end]
        place = samples._start(chunk, draw, int(ends[-1]) - offset, target) + offset
        start = beginning(ends, place, samples.room, offset)
        first = first_behind(ends, start)
        last = min(int(ends.searchsorted(ends.dtype.type(start + target))) + 1, len(ends))
        if last - first == 1 and len(ends) > 1:
            if last < len(ends):
                last += 1
            else:
                first -= 1
                before = int(ends[first - 1]) if first else offset
                start = max(before, int(ends[first]) - samples.room)
        self.start, self.stop = start, int(ends[last - 1])
        single = last - first == 1
        self.middle = self.stop if single else int(ends[first + int(draw[3] * (last - first - 1))])


def truncated(a: Tokens, b: Tokens, limit: int, draw: float) -> tuple[Tokens, Tokens]:
    """Cut the longer part (tie: B) as far as needed, as the original; what is kept of it stands anywhere in it."""
    keep_a, keep_b = pair_lengths(len(a), len(b), limit)
    return _cut(a, keep_a, draw), _cut(b, keep_b, draw)


def _cut(tokens: Tokens, keep: int, draw: float) -> Tokens:
    front = int(draw * (len(tokens) - keep + 1)) if len(tokens) > keep else 0
    return tokens[front : front + keep]
