"""Samples of one text, for masked language modelling alone.

RoBERTa (Liu et al. 2019, arXiv:1907.11692), section 4.2.
"""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from bert_lightning.data.pretraining.samples import (
    DocumentSamples,
    Draws,
    Sample,
    Samples,
    Tokens,
    sentence_at,
    sentence_start,
)


class DocumentSentences(DocumentSamples):
    """DOC-SENTENCES: as many whole sentences of one document as fit."""

    metric: ClassVar[str | None] = None
    num_special: ClassVar[int] = 2

    def _of_document(self, document: int, chunk: int, draws: Draws) -> Sample:
        target = self.target_length(draws)
        shard, first, last, offset = self.store.locate(document)
        ends = shard.sentences[first:last]
        position = self.start_position(chunk, draws, int(ends[-1]) - offset, target) + offset
        start = _start(ends, position, target, offset)
        return Sample(shard.tokens[start : _last_end(ends, start, target)], None, 0)


class FullSentences(Samples):
    """FULL-SENTENCES: whole sentences that continue into the next document, after a [SEP].

    A shard of T tokens has ceil(T / room) samples. A sample that reaches the end of a shard is shorter.
    """

    metric: ClassVar[str | None] = None
    num_special: ClassVar[int] = 2

    def _count_up(self, shard: int) -> NDArray[np.int64]:
        return np.array([-(-self.store.shard(shard).num_tokens // self.room)])

    def _sample(self, shard: int, index: int, draws: Draws) -> Sample:
        arrays = self.store.shard(shard)
        target = self.target_length(draws)
        position = self.start_position(index, draws, arrays.num_tokens, target)
        start = _start(arrays.sentences, position, target)
        document_ends = arrays.documents[:, 1]
        stop, breaks = start, document_ends[:0]
        # Each [SEP] between documents needs room too, so take fewer tokens until everything fits.
        room = target
        while room:
            stop = _last_end(arrays.sentences, start, room)
            first, last = document_ends.searchsorted(np.array((start, stop), document_ends.dtype))
            breaks = document_ends[first:last]
            breaks = breaks[breaks > start]
            if stop - start + len(breaks) <= target:
                break
            room -= 1
        positions = breaks.astype(np.int64) - start
        tokens: Tokens = np.insert(arrays.tokens[start:stop], positions, self.store.tokenizer.sep_id)
        return Sample(tokens, None, 0)


def _start(ends: NDArray[np.uint32], position: int, room: int, lowest: int = 0) -> int:
    """Return the start of a sample as `sentence_start` does, but so that samples reach the end of the text."""
    start = sentence_start(ends, position, room, lowest)
    last = int(ends[-1])
    if start + room >= last or position + room < last:
        return start
    # From this sentence the last tokens would not fit: start with the next one.
    number = sentence_at(ends, start)
    return int(ends[number]) if number + 1 < len(ends) else position


def _last_end(ends: NDArray[np.uint32], start: int, room: int) -> int:
    """Return the end of the last sentence that fits into `room` tokens; a longer first sentence is cut."""
    num_ended = sentence_at(ends, start + room)
    stop = int(ends[num_ended - 1]) if num_ended else 0
    return stop if stop > start else min(start + room, int(ends[-1]))
