"""Much text to ids quickly: each distinct stretch between spaces is encoded once and looked up from then on."""

from collections.abc import Sequence
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from bert_lightning.text.wordpiece import WordPieceTokenizer

# Characters and ids remembered before everything is forgotten: some 50 MB.
_CAPACITY = 1 << 22


class RememberingEncoder:
    """Sentences -> ids, equal to `WordPieceTokenizer.encode_batch`: nothing in BERT's reading reaches over a space.

    Some three times as fast on running text (`experiments/benchmarks/data.py`), in bounded memory.
    """

    def __init__(self, tokenizer: WordPieceTokenizer) -> None:
        self._tokenizer = tokenizer
        self._forget()

    def _forget(self) -> None:
        self._numbers: dict[str, int] = {}
        self._ids = np.empty(1 << 16, dtype=np.int32)
        # Where the ids of each remembered stretch end.
        self._ends = np.zeros(1, dtype=np.int64)
        self._size = 0

    def encode(self, texts: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """The ids of all texts, one after the other, and (texts,) where those of each end."""
        if self._size > _CAPACITY:
            self._forget()
        stretches = " ".join(texts).split(" ")
        count = len(stretches) if texts else 0
        numbers = np.fromiter(map(self._numbers.get, stretches, repeat(-1)), dtype=np.int64, count=count)
        unknown = np.flatnonzero(numbers < 0)
        if len(unknown):
            self._remember(list(dict.fromkeys(stretches[i] for i in unknown)))
            numbers[unknown] = [self._numbers[stretches[i]] for i in unknown]
        starts, lengths = self._ends[numbers], self._ends[numbers + 1] - self._ends[numbers]
        ends = np.cumsum(lengths)
        total = int(ends[-1]) if count else 0
        places = np.arange(total) + np.repeat(starts - (ends - lengths), lengths)
        last_stretches = np.cumsum([text.count(" ") + 1 for text in texts], dtype=np.int64) - 1
        return self._ids[places], ends[last_stretches] if count else ends

    def _remember(self, stretches: list[str]) -> None:
        encoded = self._tokenizer.encode_batch(stretches)
        lengths = np.fromiter(map(len, encoded), dtype=np.int64, count=len(encoded))
        old, added = int(self._ends[-1]), int(lengths.sum())
        if old + added > len(self._ids):
            self._ids = np.concatenate([self._ids[:old], np.empty(old + 2 * added, dtype=np.int32)])
        self._ids[old : old + added] = np.fromiter((i for ids in encoded for i in ids), dtype=np.int32, count=added)
        self._numbers.update({stretch: number for number, stretch in enumerate(stretches, len(self._numbers))})
        self._ends = np.concatenate([self._ends, old + np.cumsum(lengths)])
        self._size += added + sum(map(len, stretches))
