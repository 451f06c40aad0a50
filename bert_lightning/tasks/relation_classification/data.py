"""Two entities in a text, marked, and the relation between them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from bert_lightning.checkpoints.tokenizers.tokenizer_files import Vocabulary
from bert_lightning.data.datasets.examples import RelationExample
from bert_lightning.data.datasets.labels import warn_of_look_alikes
from bert_lightning.data.datasets.readers.relations import read_relations
from bert_lightning.data.loading.batching import Batch, assemble, to_batch
from bert_lightning.data.loading.module import EvaluationSplit
from bert_lightning.errors import InputError
from bert_lightning.tasks.fine_tuning.data import (
    EncodedSplit,
    FineTuningData,
    FineTuningDataModule,
    Part,
    check_all_or_none,
)
from bert_lightning.tasks.text_classification.data import sort_labels
from bert_lightning.text.wordpiece import WordPieceTokenizer

MARKERS = ("[E1]", "[/E1]", "[E2]", "[/E2]")


@dataclass(frozen=True)
class RelationClassificationData(FineTuningData):
    """SemEval-2010 task 8 files, TACRED-style JSONL, or tables whose text holds <e1> </e1> <e2> </e2>.

    Attributes:
        text_column: column of the text in tables; `text` or `sentence` unless given.
        label_column: column of the relation in tables; `label` or `relation` unless given.
        negative_label: the relation that stands for none, left out of the F1 scores: `no_relation`; that of the
            standard data set unless given.
    """

    task: ClassVar[str] = "relation-classification"
    # [CLS], [SEP], four markers and a piece of each entity.
    shortest: ClassVar[int] = 8

    text_column: str | None = None
    label_column: str | None = None
    negative_label: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.refuse_with_dataset("text_column", "label_column")

    @property
    def negative(self) -> str | None:
        """The relation that stands for none."""
        standard = self.standard
        return self.negative_label or (standard.negative_label if standard is not None else None)


def with_markers(vocabulary: Vocabulary) -> Vocabulary:
    """The vocabulary with an entry for each marker, behind all others where it is new."""
    entries = [*vocabulary.entries, *(marker for marker in MARKERS if marker not in vocabulary.entries)]
    special = dict.fromkeys([*vocabulary.special_tokens, *MARKERS])
    return replace(vocabulary, entries=tuple(entries), special_tokens=tuple(special))


class EncodedRelations(EncodedSplit):
    """Texts with marked entities; Baldini Soares et al. 2019, "Matching the Blanks", section 3.2 (entity markers).

    A batch holds `input_ids`, `token_type_ids`, `attention_mask` (B, S), `entity_places` (B, 2) of [E1] and [E2],
    `numbers` (B,), and where relations are known `labels` (B,).
    """

    def __init__(
        self,
        examples: Sequence[RelationExample],
        tokenizer: WordPieceTokenizer,
        settings: RelationClassificationData,
        labels: Sequence[str],
        parts: Sequence[Part] | None = None,
    ) -> None:
        super().__init__(examples, parts)
        self.settings, self.tokenizer = settings, tokenizer
        ids = {entry: number for number, entry in enumerate(tokenizer.entries)}
        self._markers = [ids[marker] for marker in MARKERS]
        segments = tokenizer.encode_batch([text for example in examples for text in _segments(example)])
        room = settings.max_seq_length - 2 - len(MARKERS)
        self.pieces, self.places = [], np.zeros((len(examples), 2), dtype=np.int64)
        for number, example in enumerate(examples):
            pieces, places = self._marked(example, _cut(segments[5 * number : 5 * number + 5], room))
            self.pieces.append(pieces)
            self.places[number] = places
        self.lengths = np.array([len(pieces) for pieces in self.pieces], dtype=np.int64)
        self.labels = self._gold(labels)

    @property
    def is_labelled(self) -> bool:
        """Whether relations are known."""
        return self.labels is not None

    def batch(self, features: NDArray[np.int64]) -> Batch:
        """Features to tensors."""
        tokenizer = self.tokenizer
        arrays = assemble(
            [self.pieces[number] for number in features],
            None,
            tokenizer.cls_id,
            tokenizer.sep_id,
            tokenizer.pad_id,
            self.settings.max_seq_length,
        )
        labels = {"labels": self.labels[features]} if self.labels is not None else {}
        return to_batch(*arrays, numbers=features, entity_places=self.places[features], **labels)

    def _marked(
        self, example: RelationExample, segments: Sequence[Sequence[int]]
    ) -> tuple[list[int], tuple[int, int]]:
        """Pieces with markers, and where [E1] and [E2] stand, [CLS] counted."""
        pieces, places = list(segments[0]), {}
        for (_, marker), segment in zip(_cuts(example), segments[1:], strict=True):
            places[marker] = len(pieces) + 1
            pieces += [self._markers[marker], *segment]
        return pieces, (places[0], places[2])

    def _gold(self, labels: Sequence[str]) -> NDArray[np.int64] | None:
        if self.examples[0].label is None:
            return None
        ids = {label: number for number, label in enumerate(labels)}
        for example in self.examples:
            if example.label not in ids:
                raise InputError(
                    f"{example.location}: the label {example.label!r} does not occur in training; known: "
                    f"{', '.join(labels)}"
                )
        return np.array([ids[example.label] for example in self.examples], dtype=np.int64)


def _cuts(example: RelationExample) -> list[tuple[int, int]]:
    """Where the markers go, in order: (character, number of the marker). Entities may overlap, as TACRED's do."""
    (one, one_end), (other, other_end) = example.first, example.second
    # Where two stand together an end comes before a start, an outer start before an inner one, an inner end before an
    # outer one.
    marks = [(one, 1, -one_end, 0), (one_end, 0, -one, 1), (other, 1, -other_end, 2), (other_end, 0, -other, 3)]
    return [(place, marker) for place, _, _, marker in sorted(marks)]


def _segments(example: RelationExample) -> list[str]:
    """The text in five parts, cut where the markers go."""
    places = [0, *(place for place, _ in _cuts(example)), len(example.text)]
    return [example.text[start:end] for start, end in pairwise(places)]


def _cut(segments: Sequence[list[int]], room: int) -> list[list[int]]:
    """Five parts that fit: first the outer ends go, then the middle of the third part, then its neighbours' ends."""
    before, one, between, other, after = segments
    surplus = sum(map(len, segments)) - room
    if surplus <= 0:
        return list(segments)
    # From the longer outer side until both are of a length, then from both.
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


class RelationClassificationDataModule(FineTuningDataModule):
    """Serves texts with two marked entities; the labels are those of the training file.

    Attributes:
        labels: relations in id order.

    Raises:
        InputError: a file is missing or empty, or a relation is not one of training.
    """

    def __init__(
        self,
        settings: RelationClassificationData,
        tokenizer: WordPieceTokenizer,
        *,
        labels: Sequence[str] | None = None,
        split: EvaluationSplit | None = None,
    ) -> None:
        super().__init__(settings, tokenizer)
        read = self._read(split)
        column = "" if settings.label_column is None else f" in the column {settings.label_column!r}"
        for name, (examples, *_) in read.items():
            check_all_or_none(examples, name, "row", f"relation{column}")
        if labels is None:
            examples = read["train"].examples
            standard = settings.standard
            known = standard.labels if standard is not None else None
            labels = known or sort_labels(example.label for example in examples)
            if len(labels) < 2:
                raise InputError(f"{read['train'].source}: every row has the relation {labels[0]!r}")
            warn_of_look_alikes(labels, read["train"].source)
        self.labels = list(labels)
        negative = settings.negative_label
        if negative is not None and negative not in self.labels:
            raise InputError(f"data.negative_label: {negative!r} is no relation; known: {', '.join(self.labels)}")
        for name, (examples, parts, _) in read.items():
            self.splits[name] = EncodedRelations(examples, tokenizer, settings, self.labels, parts)

    @property
    def head(self) -> dict[str, Any]:
        """The labels."""
        return {"labels": self.labels}

    def _own(self, source: str, split: str) -> Iterator[RelationExample]:
        return read_relations(source, self.settings.text_column, self.settings.label_column)
