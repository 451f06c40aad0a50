"""Pairs of text: does B follow A, or are they in order?"""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from bert_lightning.data.randomness import random_bits
from bert_lightning.data.samples import DocumentSamples, Sample, Tokens, sentence_at
from bert_lightning.data.token_store import TokenStore
from bert_lightning.errors import InputError

IS_NEXT, IS_RANDOM = 0, 1
IN_ORDER, SWAPPED = 0, 1


class SentencePairs(DocumentSamples):
    """Next-sentence pairs, as published (`create_pretraining_data.py`, paper section 3.1).

    A chunk of consecutive sentences is cut at random into A and B, or half of the time B is replaced by text of
    another document; now and then the pair is made short. Two faults of the original are corrected: B never comes
    from A's own document when it is labelled random, and a chunk of one sentence takes a neighbour, so that only
    documents of a single sentence are always random.

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

    def _of_document(self, document: int, chunk: int, draw: NDArray[np.float64], key: int) -> Sample:
        target = self._target(draw)
        ends = self.store.sentence_ends(document)
        start, middle, stop = _halves(ends, self._start(chunk, draw, int(ends[-1]), target), target, draw[3])
        # Nothing can follow where the document has no second sentence.
        is_random = middle == stop or bool(draw[4] < 0.5)
        a = self.store.tokens(document, start, middle)
        if is_random:
            b = self._random_second(document, draw, target - (middle - start))
        else:
            b = self.store.tokens(document, middle, stop)
        a, b = truncated(a, b, self.room, key)
        return Sample(a, b, IS_RANDOM if is_random else IS_NEXT)

    def _random_second(self, document: int, draw: NDArray[np.float64], target: int) -> Tokens:
        """Whole sentences of another document from a random one on, until `target` tokens; at least one sentence."""
        first, last = self.store.same_document(document)
        others = self.store.num_documents - (last - first + 1)
        other = int(draw[5] * others)
        if other >= first:
            other += last - first + 1
        ends = self.store.sentence_ends(other)
        sentence = int(draw[6] * len(ends))
        start = int(ends[sentence - 1]) if sentence else 0
        final = min(int(np.searchsorted(ends, start + max(target, 1))), len(ends) - 1)
        return self.store.tokens(other, start, int(ends[final]))


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

    def _of_document(self, document: int, chunk: int, draw: NDArray[np.float64], key: int) -> Sample:
        target = self._target(draw)
        ends = self.store.sentence_ends(document)
        start, middle, stop = _halves(ends, self._start(chunk, draw, int(ends[-1]), target), target, draw[3])
        if middle == stop:
            middle = start + (stop - start) // 2
        a, b = self.store.tokens(document, start, middle), self.store.tokens(document, middle, stop)
        a, b = truncated(a, b, self.room, key)
        return Sample(b, a, SWAPPED) if draw[4] < 0.5 else Sample(a, b, IN_ORDER)


def _halves(ends: NDArray[np.int64], start: int, target: int, draw: float) -> tuple[int, int, int]:
    """Whole sentences from the one that holds token `start`, about `target` tokens of them, cut between two.

    Start, cut and end in tokens; the cut is at the end where the document has one sentence alone.
    """
    first, start = sentence_at(ends, start)
    last = min(int(np.searchsorted(ends, start + target)) + 1, len(ends))
    if last - first == 1 and len(ends) > 1:
        if last < len(ends):
            last += 1
        else:
            first -= 1
            start = int(ends[first - 1]) if first else 0
    stop = int(ends[last - 1])
    if last - first == 1:
        return start, stop, stop
    return start, int(ends[first + int(draw * (last - first - 1))]), stop


def truncated(a: Tokens, b: Tokens, limit: int, key: int) -> tuple[Tokens, Tokens]:
    """Cut the longer part (tie: B) token by token, each from the front or the end by a coin, as the original."""
    if len(a) + len(b) > limit:
        # What one token at a time from the longer part comes to.
        keep_a = min(len(a), max(limit - len(b), -(-limit // 2)))
        a, b = _cut(a, keep_a, key, 1), _cut(b, limit - keep_a, key, 2)
    return a, b


def _cut(tokens: Tokens, keep: int, key: int, part: int) -> Tokens:
    """Remove all but `keep` tokens; how many go from the front is the number of heads in as many coins."""
    surplus = len(tokens) - keep
    if surplus <= 0:
        return tokens
    # Counters beyond those of a sample's other draws.
    coins = random_bits(key, np.arange(surplus, dtype=np.uint64) * np.uint64(2) + np.uint64(1000 + part))
    front = int((coins >> np.uint64(63)).sum())
    return tokens[front : front + keep]
