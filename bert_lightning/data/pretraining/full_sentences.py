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

    def _of_document(self, epoch: int, document: int, chunk: int, draws: Draws) -> Sample:
        target = self.target_length(draws)
        section, first, last, offset = self.store.locate(document)
        ends = section.sentences[first:last]
        position = self.start_position(chunk, draws, int(ends[-1]) - offset, target) + offset
        start = _start(ends, position, target, offset)
        return Sample(section.read(start, _last_end(ends, start, target)), None, 0)


class FullSentences(Samples):
    """FULL-SENTENCES: whole sentences that continue into the next document, after a [SEP].

    A section of T tokens has ceil(T / room) samples. A sample that reaches the end of a section is shorter.
    """

    metric: ClassVar[str | None] = None
    num_special: ClassVar[int] = 2

    def _section_counts(self) -> NDArray[np.int64]:
        return -(-self.store.section_tokens // self.room)

    def _sample(self, epoch: int, section: int, index: int, draws: Draws) -> Sample:
        text = self.store.section(section)
        target = self.target_length(draws)
        position = self.start_position(index, draws, text.num_tokens, target)
        start = _start(text.sentences, position, target)
        document_ends = text.documents[:, 1]
        stop, breaks = start, document_ends[:0]
        # Each [SEP] between documents needs room too, so take fewer tokens until everything fits.
        room = target
        while room:
            stop = _last_end(text.sentences, start, room)
            first, last = document_ends.searchsorted(np.array((start, stop), document_ends.dtype))
            breaks = document_ends[first:last]
            breaks = breaks[breaks > start]
            if stop - start + len(breaks) <= target:
                break
            room -= 1
        positions = breaks.astype(np.int64) - start
        tokens: Tokens = np.insert(text.read(start, stop), positions, self.store.tokenizer.sep_id)
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
