"""Fast encoding of much text: each distinct chunk between spaces is encoded once and then looked up."""

from collections.abc import Sequence
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from bert_lightning.text.wordpiece import WordPieceTokenizer

# The cache is cleared once it holds more characters and ids than this, about 50 MB.
_CAPACITY = 1 << 22


class CachingEncoder:
    """A tokenizer with a cache; the ids equal those of `WordPieceTokenizer.encode_batch`.

    No rule of BERT's tokenization crosses a space, so the ids of a text are those of its chunks, one after the other.
    Running text repeats its words, so most chunks are only looked up. On novels, `prepare` as a whole takes less than
    half the time of the library's `encode_batch` alone (`experiments/README.md`, the speed of the data). Memory is
    bounded.

    >>> from bert_lightning.text.vocabulary import train_wordpiece
    >>> tokenizer = train_wordpiece(["to be or not to be"] * 2, vocab_size=40)
    >>> ids, ends = CachingEncoder(tokenizer).encode(["to be", "or not", ""])
    >>> ends.tolist(), tokenizer.decode(ids[: ends[0]])
    ([2, 4, 4], 'to be')
    """

    def __init__(self, tokenizer: WordPieceTokenizer) -> None:
        self._tokenizer = tokenizer
        self._clear()

    def _clear(self) -> None:
        self._numbers: dict[str, int] = {}
        self._ids = np.empty(1 << 16, dtype=np.int32)
        # Where the ids of each cached chunk end.
        self._ends = np.zeros(1, dtype=np.int64)
        self._size = 0

    def encode(self, texts: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Return the ids of all texts, one after the other, and (texts,) the index at which the ids of each end."""
        if self._size > _CAPACITY:
            self._clear()
        chunks = " ".join(texts).split(" ")
        count = len(chunks) if texts else 0
        numbers = np.fromiter(map(self._numbers.get, chunks, repeat(-1)), dtype=np.int64, count=count)
        unknown = np.flatnonzero(numbers < 0)
        if len(unknown):
            self._add(list(dict.fromkeys(chunks[i] for i in unknown)))
            numbers[unknown] = [self._numbers[chunks[i]] for i in unknown]
        starts, lengths = self._ends[numbers], self._ends[numbers + 1] - self._ends[numbers]
        ends = np.cumsum(lengths)
        total = int(ends[-1]) if count else 0
        indices = np.arange(total) + np.repeat(starts - (ends - lengths), lengths)
        last_chunks = np.cumsum([text.count(" ") + 1 for text in texts], dtype=np.int64) - 1
        return self._ids[indices], ends[last_chunks] if count else ends

    def _add(self, chunks: list[str]) -> None:
        encoded = self._tokenizer.encode_batch(chunks)
        lengths = np.fromiter(map(len, encoded), dtype=np.int64, count=len(encoded))
        old, added = int(self._ends[-1]), int(lengths.sum())
        if old + added > len(self._ids):
            self._ids = np.concatenate([self._ids[:old], np.empty(old + 2 * added, dtype=np.int32)])
        self._ids[old : old + added] = np.fromiter((i for ids in encoded for i in ids), dtype=np.int32, count=added)
        self._numbers.update({chunk: number for number, chunk in enumerate(chunks, len(self._numbers))})
        self._ends = np.concatenate([self._ends, old + np.cumsum(lengths)])
        self._size += added + sum(map(len, chunks))
