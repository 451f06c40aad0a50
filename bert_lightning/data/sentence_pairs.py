"""Next-sentence pairs from a token store, sample by sample, each a pure function of (seed, epoch, index).

As published (`create_pretraining_data.py`, paper section 3.1): a chunk of consecutive sentences is cut at random into
A and B, or half of the time B is replaced by text of another document; now and then the pair is made short.
Two faults of the original are corrected: B never comes from A's own document when it is labelled random, and a
chunk of one sentence takes a neighbour, so that only documents of a single sentence are always random.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bert_lightning.data.randomness import derive_key, random_bits, uniforms
from bert_lightning.data.token_store import TokenStore
from bert_lightning.errors import InputError

IS_NEXT, IS_RANDOM = 0, 1
_NUM_DRAWS = 8


class SentencePair(NamedTuple):
    """Tokens of A and B without [CLS] and [SEP]."""

    first: NDArray[np.unsignedinteger]
    second: NDArray[np.unsignedinteger]
    label: int
    """0 = B follows A, 1 = B is from another document"""


class SentencePairs:
    """All pairs of a token store: sample `index` of an epoch is chunk `index`.

    A document of T tokens has ceil(T / (max_seq_length - 3)) chunks, so an epoch reads each token about once.

    Attributes:
        num_samples: chunks in all documents.

    Raises:
        InputError: fewer than two documents, or none with two sentences.
    """

    def __init__(self, store: TokenStore, max_seq_length: int, short_sequence_probability: float, seed: int) -> None:
        self.store = store
        self.seed = seed
        self.short_sequence_probability = short_sequence_probability
        # [CLS] A [SEP] B [SEP]
        self.max_tokens = max_seq_length - 3
        if self.max_tokens < 2:
            raise InputError(f"max_seq_length is {max_seq_length}; a pair needs at least 5")
        if store.num_documents < 2:
            raise InputError(
                f"{store.path}: the corpus is too small for one pair: a random second part comes from another "
                f"document, but there is only {store.num_documents}. Plain text in paragraphs counts each file as "
                "one document; with `prepare --layout sentences` a blank line separates documents"
            )
        if all(store.num_sentences(document) < 2 for document in range(store.num_documents)):
            raise InputError(f"{store.path}: the corpus is too small for one pair: no document has two sentences")
        self._chunk_ends = np.cumsum(-(-store.document_lengths // self.max_tokens))
        self.num_samples = int(self._chunk_ends[-1])

    def pairs(self, epoch: int, indices: NDArray[np.int64]) -> list[SentencePair]:
        """The samples `indices` of an epoch."""
        documents = np.searchsorted(self._chunk_ends, indices, side="right")
        chunks = indices - np.concatenate(([0], self._chunk_ends))[documents]
        keys = random_bits(derive_key(self.seed, epoch, "pairs"), indices)
        draws = uniforms(keys[:, None], np.arange(_NUM_DRAWS)[None, :])
        return [
            self._pair(int(document), int(chunk), draw, int(key))
            for document, chunk, draw, key in zip(documents, chunks, draws, keys, strict=True)
        ]

    def _pair(self, document: int, chunk: int, draw: NDArray[np.float64], key: int) -> SentencePair:
        target = self.max_tokens
        if draw[0] < self.short_sequence_probability:
            target = 2 + int(draw[1] * (self.max_tokens - 1))
        ends = self.store.sentence_ends(document)
        length, num_sentences = int(ends[-1]), len(ends)
        # Somewhere around the chunk's own start, so that chunks fall differently in each epoch; not so late that
        # the document ends before the pair is full.
        start = int((chunk - 0.5 + draw[2]) * self.max_tokens)
        start = min(max(start, 0), max(length - target, 0))
        first = int(np.searchsorted(ends, start, side="right"))
        start = int(ends[first - 1]) if first else 0
        last = min(int(np.searchsorted(ends, start + target)) + 1, num_sentences)
        if last - first == 1 and num_sentences > 1:
            if last < num_sentences:
                last += 1
            else:
                first -= 1
                start = int(ends[first - 1]) if first else 0

        if last - first == 1:
            middle, is_random = int(ends[first]), True
        else:
            middle = int(ends[first + int(draw[3] * (last - first - 1))])
            is_random = bool(draw[4] < 0.5)
        a = self.store.tokens(document, start, middle)
        if is_random:
            other = int(draw[5] * (self.store.num_documents - 1))
            other += other >= document
            b = self._random_second(other, draw[6], target - (middle - start))
        else:
            b = self.store.tokens(document, middle, int(ends[last - 1]))
        return self._truncated(a, b, is_random, key)

    def _random_second(self, document: int, draw: float, target: int) -> NDArray[np.unsignedinteger]:
        """Whole sentences from a random one on, until `target` tokens are there; at least one sentence."""
        ends = self.store.sentence_ends(document)
        first = int(draw * len(ends))
        start = int(ends[first - 1]) if first else 0
        last = min(int(np.searchsorted(ends, start + max(target, 1))), len(ends) - 1)
        return self.store.tokens(document, start, int(ends[last]))

    def _truncated(
        self, a: NDArray[np.unsignedinteger], b: NDArray[np.unsignedinteger], is_random: bool, key: int
    ) -> SentencePair:
        """Cut the longer part (tie: B) token by token, each from the front or the end by a coin, as the original."""
        limit = self.max_tokens
        if len(a) + len(b) > limit:
            # What one token at a time from the longer part comes to.
            keep_a = min(len(a), max(limit - len(b), -(-limit // 2)))
            a = _cut(a, keep_a, key, 1)
            b = _cut(b, limit - keep_a, key, 2)
        return SentencePair(a, b, IS_RANDOM if is_random else IS_NEXT)


def _cut(tokens: NDArray[np.unsignedinteger], keep: int, key: int, part: int) -> NDArray[np.unsignedinteger]:
    """Remove all but `keep` tokens; how many go from the front is the number of heads in as many coins."""
    surplus = len(tokens) - keep
    if surplus <= 0:
        return tokens
    # Counters beyond those of the draws above.
    coins = random_bits(key, np.arange(surplus, dtype=np.uint64) * np.uint64(2) + np.uint64(1000 + part))
    front = int((coins >> np.uint64(63)).sum())
    return tokens[front : front + keep]
