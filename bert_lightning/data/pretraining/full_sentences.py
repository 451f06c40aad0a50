"""Samples of one part, for masked language modelling alone; RoBERTa (Liu et al. 2019), section 4.2."""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from bert_lightning.data.pretraining.samples import DocumentSamples, Sample, Samples, Tokens, beginning, first_behind


class DocumentSentences(DocumentSamples):
    """DOC-SENTENCES: whole sentences of one document, as many as there is room for."""

    metric: ClassVar[str | None] = None
    num_special: ClassVar[int] = 2

    def _of_document(self, document: int, chunk: int, draw: list[float]) -> Sample:
        target = self._target(draw)
        shard, first, last, offset = self.store.locate(document)
        ends = shard.sentences[first:last]
        place = self._start(chunk, draw, int(ends[-1]) - offset, target) + offset
        start = _beginning(ends, place, target, offset)
        return Sample(shard.tokens[start : _whole(ends, start, target)], None, 0)


class FullSentences(Samples):
    """FULL-SENTENCES: whole sentences, on into the next document, with a [SEP] between two documents.

    A shard of T tokens has ceil(T / room) of them; a sample that reaches a shard's end is shorter.
    """

    metric: ClassVar[str | None] = None
    num_special: ClassVar[int] = 2

    def _count_up(self, shard: int) -> NDArray[np.int64]:
        return np.array([-(-self.store.shard(shard).num_tokens // self.room)])

    def _sample(self, shard: int, place: int, draw: NDArray[np.float64]) -> Sample:
        arrays = self.store.shard(shard)
        chances = draw.tolist()
        target = self._target(chances)
        start = _beginning(arrays.sentences, self._start(place, chances, arrays.num_tokens, target), target)
        documents = arrays.documents[:, 1]
        stop, breaks = start, documents[:0]
        room = target
        while room:
            stop = _whole(arrays.sentences, start, room)
            first, last = documents.searchsorted(np.array((start, stop), documents.dtype))
            breaks = documents[first:last]
            breaks = breaks[breaks > start]
            if stop - start + len(breaks) <= target:
                break
            room -= 1
        places = breaks.astype(np.int64) - start
        tokens: Tokens = np.insert(arrays.tokens[start:stop], places, self.store.tokenizer.sep_id)
        return Sample(tokens, None, 0)


def _beginning(ends: NDArray[np.uint32], place: int, room: int, lowest: int = 0) -> int:
    """As `beginning`, but with the next sentence where the text then ends within `room`."""
    start = beginning(ends, place, room, lowest)
    last = int(ends[-1])
    if start + room >= last or place + room < last:
        return start
    # The last tokens would be missed from there.
    number = first_behind(ends, start)
    return int(ends[number]) if number + 1 < len(ends) else place


def _whole(ends: NDArray[np.uint32], start: int, room: int) -> int:
    """The end of the last sentence that fits into `room` tokens from `start`; a longer first one is cut."""
    last = first_behind(ends, start + room)
    stop = int(ends[last - 1]) if last else 0
    return stop if stop > start else min(start + room, int(ends[-1]))
