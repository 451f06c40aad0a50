"""Tagged words: named entities, parts of speech, chunks. Long sentences in windows, and no word lost."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bert_lightning.checks import require_at_least
from bert_lightning.data.datasets.examples import TaggedSentence
from bert_lightning.data.datasets.readers.tagged import read_tagged
from bert_lightning.data.loading.batching import Batch, assemble, to_batch
from bert_lightning.data.loading.module import EvaluationSplit
from bert_lightning.errors import InputError
from bert_lightning.metrics.entities import spans_of
from bert_lightning.model.losses import IGNORED
from bert_lightning.model.tag_schemes import OUTSIDE, TagScheme
from bert_lightning.tasks.fine_tuning.data import (
    EncodedSplit,
    FineTuningData,
    FineTuningDataModule,
    Part,
    SplitExamples,
    check_all_or_none,
)
from bert_lightning.tasks.token_classification.tag_checks import (
    check_scheme,
    mark_spans,
    refuse_other_than_spans,
    refuse_spans,
    schemes_of,
    tags_in,
    warn_of_other_columns,
)
from bert_lightning.tasks.token_classification.tag_schemes import all_tags, convert, labels_are_spans
from bert_lightning.text.wordpiece import WordPieceTokenizer

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TokenClassificationData(FineTuningData):
    """Files of tagged words: columns (CoNLL, two columns), CoNLL-U, tables with lists, a hub or a standard data set.

    Attributes:
        token_column: column of the words; a number counted from 0 (negative from the end) in column files, where it
            is the first unless given.
        tag_column: column of the tags; the last one of a column file unless given.
        source_scheme: what the tags of the files keep to: IOB1, IOB2, BIOES, BILOU, `none` where they mark no
            spans, or `auto`, which decides by the tags of the training file (`judge_tags`).
        tag_scheme: what the model is trained on; its spans are scored whatever it is.
        broken_tags: what becomes of tags that break their scheme: `repair` reads them as conlleval does and says how
            many there are, `error` stops.
        window_overlap: word pieces that two windows of a sentence longer than the model have in common.
        document_context: word pieces of the same document that are shown on each side of a sentence; where a file
            marks no documents there is none.
        label_all_pieces: train on every piece of a word, not on its first alone.
    """

    task: ClassVar[str] = "token-classification"

    token_column: str | None = None
    tag_column: str | None = None
    source_scheme: Literal["auto", "IOB1", "IOB2", "BIOES", "BILOU", "none"] = "auto"
    tag_scheme: TagScheme = "IOB2"
    broken_tags: Literal["repair", "error"] = "repair"
    window_overlap: int = 32
    document_context: int = 0
    label_all_pieces: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, 0, "window_overlap", "document_context")
        self.refuse_with_dataset("token_column", "tag_column")
        if self.window_overlap > (self.max_seq_length - 2) // 2:
            raise ValueError(
                f"window_overlap is {self.window_overlap}; with max_seq_length {self.max_seq_length} it must be at "
                f"most {(self.max_seq_length - 2) // 2}, half of the room"
            )


class Window(NamedTuple):
    """A feature: some word pieces, and where the words that it answers for begin."""

    sentence: int
    words: range
    """which words of the sentence it answers for; each word is in exactly one window's"""
    pieces: list[int]
    """ids, context on both sides included, without [CLS] and [SEP]"""
    places: list[int]
    """of the first piece of each of these words, [CLS] counted"""
    num_pieces: list[int]
    """of each of these words"""


class EncodedWords(EncodedSplit):
    """Tagged sentences, encoded into windows.

    A batch holds `input_ids`, `token_type_ids`, `attention_mask` (B, S), `numbers` (B,), `places` (B, W) of the
    pieces that are labelled, `word_mask` (B, W), and where there are gold tags `labels` (B, W), -100 where is none.
    """

    def __init__(
        self,
        examples: Sequence[TaggedSentence],
        tokenizer: WordPieceTokenizer,
        settings: TokenClassificationData,
        labels: Sequence[str],
        parts: Sequence[Part] | None = None,
        training: bool = False,
        spans: bool = True,
    ) -> None:
        super().__init__(examples, parts)
        self.settings, self.tokenizer, self.labels = settings, tokenizer, labels
        self.training, self.spans = training, spans
        self._ids = {label: number for number, label in enumerate(labels)}
        self.windows = list(_windows(examples, tokenizer, settings))
        self.lengths = np.array([len(window.pieces) + 2 for window in self.windows], dtype=np.int64)

    @property
    def is_labelled(self) -> bool:
        """Whether there are gold tags."""
        return self.examples[0].tags is not None

    def batch(self, features: NDArray[np.int64]) -> Batch:
        """Features to tensors."""
        tokenizer, windows = self.tokenizer, [self.windows[number] for number in features]
        arrays = assemble(
            [window.pieces for window in windows],
            None,
            tokenizer.cls_id,
            tokenizer.sep_id,
            tokenizer.pad_id,
            self.settings.max_seq_length,
        )
        every = self.training and self.settings.label_all_pieces
        labelled = [_labelled_places(window, every) for window in windows]
        width = max((len(places) for places in labelled), default=0)
        places, mask = np.zeros((len(windows), width), dtype=np.int64), np.zeros((len(windows), width), dtype=bool)
        for row, each in enumerate(labelled):
            places[row, : len(each)], mask[row, : len(each)] = each, True
        extra: dict[str, Any] = {"places": places, "word_mask": mask, "numbers": features}
        if self.is_labelled:
            extra["labels"] = np.full((len(windows), width), IGNORED, dtype=np.int64)
            for row, window in enumerate(windows):
                labels = self._window_labels(window, every)
                extra["labels"][row, : len(labels)] = labels
        return to_batch(*arrays, **extra)

    def _window_labels(self, window: Window, every: bool) -> list[int]:
        tags = self.examples[window.sentence].tags[window.words.start : window.words.stop]
        if self.spans:
            # What a window cuts off is a span of its own, so that every window keeps to the scheme.
            tags = convert(tags, self.settings.tag_scheme)
        if every:
            pieces = zip(tags, window.num_pieces, strict=True)
            tags = [
                each
                for tag, number in pieces
                for each in (_pieces_tags(tag, number) if self.spans else [tag] * number)
            ]
        return [self._ids.get(tag, IGNORED) for tag in tags]


def _labelled_places(window: Window, every: bool) -> list[int]:
    if not every:
        return window.places
    return [place + k for place, number in zip(window.places, window.num_pieces, strict=True) for k in range(number)]


def _pieces_tags(tag: str, number: int) -> list[str]:
    """Return the tag of each piece of a word: all pieces are in its span."""
    if number == 1 or tag == OUTSIDE:
        return [tag] * number
    prefix, kind = tag[0], tag[1:]
    inner = f"I{kind}"
    if prefix in ("S", "U"):
        return [f"B{kind}", *[inner] * (number - 2), f"{'E' if prefix == 'S' else 'L'}{kind}"]
    if prefix in ("E", "L"):
        return [*[inner] * (number - 1), tag]
    return [tag, *[inner] * (number - 1)]


def _windows(
    examples: Sequence[TaggedSentence], tokenizer: WordPieceTokenizer, settings: TokenClassificationData
) -> Iterator[Window]:
    """One window a sentence, or several where it is longer than the model."""
    room = settings.max_seq_length - 2
    pieces_of = _WordPieces(tokenizer, room)
    encoded = [[pieces_of(word) for word in example.words] for example in examples]
    flat = [[piece for word in words for piece in word] for words in encoded]
    for number, words in enumerate(encoded):
        lengths = [len(word) for word in words]
        ends = np.cumsum(lengths, dtype=np.int64)
        starts = ends - lengths
        if not words or ends[-1] <= room:
            left, right = _context(number, examples, flat, settings.document_context, room - len(flat[number]))
            yield Window(
                number,
                range(len(words)),
                [*left, *flat[number], *right],
                [int(start) + len(left) + 1 for start in starts],
                lengths,
            )
            continue
        for first, last, owned in _cut(starts, ends, room, settings.window_overlap):
            offset = int(starts[first])
            yield Window(
                number,
                owned,
                flat[number][offset : int(ends[last])],
                [int(starts[word]) - offset + 1 for word in owned],
                lengths[owned.start : owned.stop],
            )


def _cut(
    starts: NDArray[np.int64], ends: NDArray[np.int64], room: int, overlap: int
) -> Iterator[tuple[int, int, range]]:
    """Windows of a sentence: first and last word, and the words each answers for.

    Where two windows overlap, each word belongs to the one in which it has more context on its poorer side, as
    `run_squad.py: _check_is_max_context` decides: the border is in the middle of what they share.
    """
    bounds = [(0, int(np.searchsorted(ends, room, side="right")) - 1)]
    while bounds[-1][1] < len(ends) - 1:
        last = bounds[-1][1]
        # Behind the words that end in the overlap, but at least one word on.
        first = int(np.searchsorted(starts, ends[last] - overlap, side="left"))
        first = min(max(first, bounds[-1][0] + 1), last + 1)
        # A long word that the room cannot hold with the overlap before it: less overlap.
        while int(np.searchsorted(ends, starts[first] + room, side="right")) - 1 <= last:
            first += 1
        bounds.append((first, int(np.searchsorted(ends, starts[first] + room, side="right")) - 1))
    begin = 0
    for number, (first, last) in enumerate(bounds):
        if number + 1 < len(bounds):
            shared = bounds[number + 1][0]
            middle = (int(starts[shared]) + int(ends[last])) / 2
            stop = shared + int(np.searchsorted(starts[shared : last + 1] + ends[shared : last + 1], 2 * middle))
        else:
            stop = last + 1
        yield first, last, range(begin, stop)
        begin = stop


def _context(
    number: int, examples: Sequence[TaggedSentence], flat: list[list[int]], wanted: int, room: int
) -> tuple[list[int], list[int]]:
    """Pieces of the same document before and behind a sentence; what one side leaves free goes to the other."""
    if not wanted:
        return [], []
    document = examples[number].document
    if not document:
        return [], []
    sides: list[list[int]] = []
    for step in (-1, 1):
        found: list[int] = []
        other = number + step
        while len(found) < wanted and 0 <= other < len(examples) and examples[other].document == document:
            found = [*flat[other], *found] if step < 0 else [*found, *flat[other]]
            other += step
        sides.append(found)
    left, right = sides
    num_left = min(len(left), wanted, max(room // 2, room - min(len(right), wanted)))
    num_right = min(len(right), wanted, room - num_left)
    return left[len(left) - num_left :], right[:num_right]


class _WordPieces:
    """Words -> pieces, each word looked up once; a word without any, such as a control character, is unknown."""

    def __init__(self, tokenizer: WordPieceTokenizer, room: int) -> None:
        self.tokenizer, self.room = tokenizer, room
        self.known: dict[str, list[int]] = {}

    def __call__(self, word: str) -> list[int]:
        if word not in self.known:
            [pieces] = self.tokenizer.encode_batch([word])
            self.known[word] = pieces[: self.room] or [self.tokenizer.unknown_id]
        return self.known[word]


class TokenClassificationDataModule(FineTuningDataModule):
    """Serves tagged words; labels are all tags of the training file's types, or its tags where they mark no spans.

    Attributes:
        labels: tags in id order, in the scheme that the model is trained on.
        spans: whether the tags mark spans.

    Raises:
        InputError: a file is missing or empty, or tags break their scheme where that is to stop.
    """

    def __init__(
        self,
        settings: TokenClassificationData,
        tokenizer: WordPieceTokenizer,
        *,
        labels: Sequence[str] | None = None,
        split: EvaluationSplit | None = None,
    ) -> None:
        super().__init__(settings, tokenizer)
        read = self._read(split)
        for name, (examples, *_) in read.items():
            hint = "; data.tag_column names the column of the tags"
            check_all_or_none(examples, name, "sentence", "tag", attribute="tags", hint=hint)
        self.spans = self._mark_spans(read, labels)
        known = set(labels) if labels is not None else tags_in(read["train"].examples)
        splits = {name: examples for name, (examples, *_) in read.items()}
        for examples in splits.values():
            if self.spans:
                refuse_other_than_spans(examples, known)
            elif not self._plain:
                refuse_spans(examples, known)
        if self.spans:
            assert settings.source_scheme != "none"
            for name, scheme in schemes_of(splits, settings.source_scheme).items():
                check_scheme(splits[name], scheme, settings.broken_tags)
        self.labels = list(labels) if labels is not None else self._labels(read["train"].examples)
        if settings.document_context and not any(
            example.document for examples, *_ in read.values() for example in examples
        ):
            source = next(iter(read.values())).source
            raise InputError(
                f"{source}: no line begins a document (-DOCSTART-, # newdoc): data.document_context would do nothing"
            )
        for name, (examples, parts, _) in read.items():
            self._report_unseen(examples, name)
            self.splits[name] = EncodedWords(
                examples, tokenizer, settings, self.labels, parts, training=name == "train", spans=self.spans
            )

    @property
    def head(self) -> dict[str, Any]:
        """The labels."""
        return {"labels": self.labels}

    @property
    def tag_scheme(self) -> TagScheme | None:
        """The scheme that a CRF over the labels keeps to."""
        scheme: TagScheme = self.settings.tag_scheme
        return scheme if self.spans else None

    def _own(self, source: str, split: str) -> Iterator[TaggedSentence]:
        return read_tagged(source, self.settings.token_column, self.settings.tag_column)

    @property
    def _plain(self) -> bool:
        """Return whether the settings say that tags are plain labels."""
        standard = self.settings.standard
        by_default = standard is not None and standard.scheme == "none" and self.settings.source_scheme == "auto"
        return by_default or self.settings.source_scheme == "none"

    def _mark_spans(self, read: dict[str, SplitExamples], labels: Sequence[str] | None) -> bool:
        """Decide whether tags mark spans: by the settings, by a saved model's labels, or by the training file."""
        if self._plain:
            return False
        if labels is not None:
            # A saved model's labels say what it is for.
            return labels_mark_spans(labels, self.settings)
        spans = self.settings.source_scheme != "auto" or mark_spans(read["train"].examples)
        if not spans and self.settings.tag_column is None and self.settings.dataset is None:
            warn_of_other_columns(read["train"].source, self.settings.token_column)
        return spans

    def _labels(self, examples: Sequence[TaggedSentence]) -> list[str]:
        if not self.spans:
            return sorted({tag for example in examples for tag in example.tags or ()})
        types = {span.type for example in examples for span in spans_of(example.tags or ())}
        if not types:
            raise InputError(f"{examples[0].location}: the training file has no tag but {OUTSIDE}")
        return all_tags(types, self.settings.tag_scheme)

    def _report_unseen(self, examples: Sequence[TaggedSentence], split: str) -> None:
        """Tags that training does not have: they stay gold, and what has them is missed."""
        if examples[0].tags is None:
            return
        if self.spans:
            known = {label.partition("-")[2] for label in self.labels if label != OUTSIDE}
            unseen = [
                (example.location, span.type)
                for example in examples
                for span in spans_of(example.tags or ())
                if span.type not in known
            ]
        else:
            known = set(self.labels)
            unseen = [
                (example.location, tag) for example in examples for tag in example.tags or () if tag not in known
            ]
        if unseen:
            location, name = unseen[0]
            log.warning(
                "%s: %r does not occur in training; %d such gold label(s) in %s cannot be found",
                location, name, len(unseen), split,
            )  # fmt: skip


def labels_mark_spans(labels: Sequence[str], settings: TokenClassificationData) -> bool:
    """Whether a model's labels are tags of spans."""
    return settings.source_scheme != "none" and labels_are_spans(labels)
