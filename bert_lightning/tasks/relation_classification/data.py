"""The data of relation classification: texts with two marked entities, and the relation between them."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Self

import numpy as np
from numpy.typing import NDArray

from bert_lightning.checkpoints.tokenizers.tokenizer_files import Vocabulary
from bert_lightning.data.datasets.examples import RelationExample
from bert_lightning.data.datasets.labels import warn_of_look_alikes
from bert_lightning.data.datasets.readers.relations import read_relations
from bert_lightning.data.loading.batching import Batch, assemble, to_batch
from bert_lightning.data.loading.module import EvaluationSplit, TrainingLength
from bert_lightning.errors import InputError
from bert_lightning.tasks.fine_tuning.data import FineTuningDataModule, sort_labels
from bert_lightning.tasks.fine_tuning.splits import (
    EncodedSplit,
    SplitExamples,
    Subset,
    check_all_or_none,
    number_labels,
)
from bert_lightning.tasks.relation_classification.settings import RelationClassificationData
from bert_lightning.text.wordpiece import WordPieceTokenizer

MARKERS = ("[E1]", "[/E1]", "[E2]", "[/E2]")


def with_markers(vocabulary: Vocabulary) -> Vocabulary:
    """Return the vocabulary with an entry for each marker. New entries come after all others."""
    entries = [*vocabulary.entries, *(marker for marker in MARKERS if marker not in vocabulary.entries)]
    special = dict.fromkeys([*vocabulary.special_tokens, *MARKERS])
    return replace(vocabulary, entries=tuple(entries), special_tokens=tuple(special))


class EncodedRelations(EncodedSplit[RelationExample]):
    """Texts with marked entities; Baldini Soares et al. 2019, "Matching the Blanks", section 3.2 (entity markers).

    A batch holds `input_ids`, `token_type_ids`, `attention_mask` (B, S), `entity_positions` (B, 2) of [E1] and [E2],
    `numbers` (B,) and, if relations are known, `labels` (B,).
    """

    def __init__(
        self,
        examples: Sequence[RelationExample],
        tokenizer: WordPieceTokenizer,
        settings: RelationClassificationData,
        labels: Sequence[str],
        subsets: Sequence[Subset] | None = None,
    ) -> None:
        super().__init__(examples, subsets)
        self.settings, self.tokenizer = settings, tokenizer
        ids = {entry: number for number, entry in enumerate(tokenizer.entries)}
        self._markers = [ids[marker] for marker in MARKERS]
        segments = tokenizer.encode_batch([text for example in examples for text in segments_of(example)])
        room = settings.max_seq_length - 2 - len(MARKERS)
        self.pieces: list[list[int]] = []
        self.positions = np.zeros((len(examples), 2), dtype=np.int64)
        for number, example in enumerate(examples):
            pieces, positions = self._marked(example, cut_segments(segments[5 * number : 5 * number + 5], room))
            self.pieces.append(pieces)
            self.positions[number] = positions
        self.lengths = np.array([len(pieces) for pieces in self.pieces], dtype=np.int64)
        self.labels = number_labels(examples, labels) if examples[0].label is not None else None

    def part(self, numbers: NDArray[np.int64]) -> Self:
        part = super().part(numbers)
        part.pieces = [self.pieces[number] for number in numbers.tolist()]
        part.positions = self.positions[numbers]
        part.labels = self.labels[numbers] if self.labels is not None else None
        return part

    @property
    def is_labelled(self) -> bool:
        """Whether the relations are known."""
        return self.labels is not None

    def batch(self, numbers: NDArray[np.int64]) -> Batch:
        tokenizer = self.tokenizer
        arrays = assemble(
            [self.pieces[number] for number in numbers],
            None,
            tokenizer.cls_id,
            tokenizer.sep_id,
            tokenizer.pad_id,
            self.settings.max_seq_length,
        )
        labels = {"labels": self.labels[numbers]} if self.labels is not None else {}
        return to_batch(*arrays, numbers=numbers, entity_positions=self.positions[numbers], **labels)

    def _marked(
        self, example: RelationExample, segments: Sequence[Sequence[int]]
    ) -> tuple[list[int], tuple[int, int]]:
        """Return the pieces with markers, and the positions of [E1] and [E2], counted from [CLS] at 0."""
        pieces, positions = list(segments[0]), {}
        for (_, marker), segment in zip(marker_places(example), segments[1:], strict=True):
            positions[marker] = len(pieces) + 1
            pieces += [self._markers[marker], *segment]
        return pieces, (positions[0], positions[2])


def marker_places(example: RelationExample) -> list[tuple[int, int]]:
    """Return (character, number of the marker) for each marker, in order. Entities may overlap, as in TACRED."""
    (one, one_end), (other, other_end) = example.first, example.second
    # Markers at the same character are ordered so that entities nest: [E1]a[/E1][E2]b[/E2], [E1][E2]a[/E2]b[/E1].
    marks = [(one, 1, -one_end, 0), (one_end, 0, -one, 1), (other, 1, -other_end, 2), (other_end, 0, -other, 3)]
    return [(character, marker) for character, _, _, marker in sorted(marks)]


def segments_of(example: RelationExample) -> list[str]:
    """Cut the text at the markers, into five segments."""
    cuts = [0, *(character for character, _ in marker_places(example)), len(example.text)]
    return [example.text[start:end] for start, end in pairwise(cuts)]


def cut_segments(segments: Sequence[list[int]], room: int) -> list[list[int]]:
    """Shorten five segments so that they fit.

    The outer ends are cut first, then the middle of the third segment, then the ends of the two entities.
    """
    before, one, between, other, after = segments
    surplus = sum(map(len, segments)) - room
    if surplus <= 0:
        return list(segments)
    # Shorten the longer outer segment until both are equally long, then shorten both.
    keep = max(0, len(before) + len(after) - surplus)
    keep_before = min(len(before), max(keep // 2, keep - len(after)))
    surplus -= len(before) + len(after) - keep
    before, after = before[len(before) - keep_before :], after[: keep - keep_before]
    if surplus > 0:
        keep = max(0, len(between) - surplus)
        surplus -= len(between) - keep
        between = [*between[: -(-keep // 2)], *between[len(between) - keep // 2 :]]
    if surplus > 0:
        half = room // 2
        keep_one = min(len(one), max(half, room - len(other)))
        one, other = one[:keep_one], other[: room - keep_one]
    return [before, one, between, other, after]


class RelationClassificationDataModule(FineTuningDataModule[RelationExample, EncodedRelations]):
    """Data module of texts with two marked entities.

    The labels are those of the standard data set or of the training file.

    Attributes:
        labels: relations in the order of their ids.

    Raises:
        InputError: a file is missing or empty, or a relation is not one of training.
    """

    settings: RelationClassificationData

    def __init__(
        self,
        settings: RelationClassificationData,
        tokenizer: WordPieceTokenizer,
        *,
        labels: Sequence[str] | None = None,
        split: EvaluationSplit | None = None,
        length: TrainingLength | None = None,
    ) -> None:
        super().__init__(settings, tokenizer, length)
        read = self._read(split)
        for name, (examples, *_) in read.items():
            self._check(examples, name)
        if labels is None:
            examples = read["train"].examples
            standard = settings.standard
            published = standard.labels if standard is not None else None
            labels = published or sort_labels(str(example.label) for example in examples)
            if len(labels) < 2:
                raise InputError(f"{read['train'].source}: every row has the relation {labels[0]!r}")
            warn_of_look_alikes(labels, read["train"].source)
        self.labels = list(labels)
        negative = settings.negative_label
        if negative is not None and negative not in self.labels:
            raise InputError(f"data.negative_label: {negative!r} is not a relation; known: {', '.join(self.labels)}")
        self.splits |= {name: self._encoded(each) for name, each in read.items()}

    def _check(self, examples: Sequence[RelationExample], split: str) -> None:
        name = self.settings.label_column
        check_all_or_none(examples, split, "row", "relation" if name is None else f"relation in the column {name!r}")

    def _encoded(self, read: SplitExamples[RelationExample]) -> EncodedRelations:
        return EncodedRelations(read.examples, self.tokenizer, self.settings, self.labels, read.subsets)

    def _encode(self, split: str, read: SplitExamples[RelationExample]) -> EncodedRelations:
        self._check(read.examples, split)
        return self._encoded(read)

    def _read_custom(self, source: str, split: str) -> Iterator[RelationExample]:
        return read_relations(source, self.settings.text_column, self.settings.label_column)
