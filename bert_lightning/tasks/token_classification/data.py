"""The data of token classification: tagged words, such as named entities, parts of speech, or chunks."""

import logging
from collections.abc import Collection, Iterator, Sequence
from itertools import chain
from typing import Self

import numpy as np
from numpy.typing import NDArray

from bert_lightning.data.datasets.examples import TaggedSentence
from bert_lightning.data.datasets.readers.tagged import read_tagged
from bert_lightning.data.loading.batching import Batch, assemble, to_batch
from bert_lightning.data.loading.module import EvaluationSplit, TrainingLength
from bert_lightning.errors import InputError
from bert_lightning.metrics.spans import spans_of
from bert_lightning.model.losses import IGNORED
from bert_lightning.tags import OUTSIDE, TagScheme
from bert_lightning.tasks.fine_tuning.data import FineTuningDataModule
from bert_lightning.tasks.fine_tuning.splits import EncodedSplit, SplitExamples, Subset, check_all_or_none
from bert_lightning.tasks.token_classification.settings import TokenClassificationData
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
from bert_lightning.tasks.token_classification.windows import Window, piece_positions, piece_tags, sentence_windows
from bert_lightning.text.wordpiece import WordPieceTokenizer
from bert_lightning.wording import count

log = logging.getLogger(__name__)


class EncodedWords(EncodedSplit[TaggedSentence]):
    """Tagged sentences, encoded into windows.

    A batch holds `input_ids`, `token_type_ids`, `attention_mask` (B, S) and `numbers` (B,). It also holds the
    `positions` (B, W) of the pieces that have a label, and `word_mask` (B, W), which is False at padding. With gold
    tags there are `labels` (B, W), -100 at padding and for tags that the model does not have.
    """

    def __init__(
        self,
        examples: Sequence[TaggedSentence],
        tokenizer: WordPieceTokenizer,
        settings: TokenClassificationData,
        labels: Sequence[str],
        subsets: Sequence[Subset] | None = None,
        training: bool = False,
        spans: bool = True,
    ) -> None:
        super().__init__(examples, subsets)
        self.settings, self.tokenizer, self.labels = settings, tokenizer, labels
        self.training, self.spans = training, spans
        self._ids = {label: number for number, label in enumerate(labels)}
        self.windows = list(sentence_windows(examples, tokenizer, settings))
        self.lengths = np.array([len(window.pieces) + 2 for window in self.windows], dtype=np.int64)

    @property
    def owners(self) -> NDArray[np.int64]:
        """(windows,) the number of the sentence of each window."""
        return np.array([window.sentence for window in self.windows], dtype=np.int64)

    def part(self, numbers: NDArray[np.int64]) -> Self:
        part, new = super().part(numbers), {number: place for place, number in enumerate(numbers.tolist())}
        windows = [self.windows[number] for number in self.sequences_of(numbers).tolist()]
        part.windows = [window._replace(sentence=new[window.sentence]) for window in windows]
        return part

    @property
    def is_labelled(self) -> bool:
        """Whether the examples have gold tags."""
        return self.examples[0].tags is not None

    def batch(self, numbers: NDArray[np.int64]) -> Batch:
        tokenizer, windows = self.tokenizer, [self.windows[number] for number in numbers]
        arrays = assemble(
            [window.pieces for window in windows],
            None,
            tokenizer.cls_id,
            tokenizer.sep_id,
            tokenizer.pad_id,
            self.settings.max_seq_length,
        )
        all_pieces = self.training and self.settings.label_all_pieces
        positions, mask = _pad([piece_positions(each) if all_pieces else each.positions for each in windows], 0)
        labels = {}
        if self.is_labelled:
            labels["labels"], _ = _pad([self._label_ids(window, all_pieces) for window in windows], IGNORED)
        return to_batch(*arrays, positions=positions, word_mask=mask, numbers=numbers, **labels)

    def _label_ids(self, window: Window, all_pieces: bool) -> list[int]:
        """Return the label of each word, or of each piece, of a window."""
        tags = (self.examples[window.sentence].tags or [])[window.words.start : window.words.stop]
        if self.spans:
            # A window may begin or end inside a span. The words of the span in the window then count as a whole
            # span, so that the tags of every window follow the scheme.
            tags = convert(tags, self.settings.tag_scheme)
        if all_pieces:
            tags_of_word = piece_tags if self.spans else lambda tag, number: [tag] * number
            tags = list(chain.from_iterable(map(tags_of_word, tags, window.num_pieces)))
        return [self._ids.get(tag, IGNORED) for tag in tags]


def _pad(sequences: Sequence[Sequence[int]], value: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Pad sequences with a value to a matrix, and return it with a mask that is False at the padding."""
    shape = len(sequences), max(map(len, sequences), default=0)
    matrix, mask = np.full(shape, value, dtype=np.int64), np.zeros(shape, dtype=bool)
    for number, sequence in enumerate(sequences):
        matrix[number, : len(sequence)], mask[number, : len(sequence)] = sequence, True
    return matrix, mask


class TokenClassificationDataModule(FineTuningDataModule[TaggedSentence, EncodedWords]):
    """Data module of tagged words.

    If the tags mark spans, the labels are all tags of the model's scheme for the types of the training file.
    Otherwise they are the tags of that file.

    Attributes:
        labels: tags in id order, in the scheme that the model is trained on.
        spans: whether the tags mark spans.

    Raises:
        InputError: a file is missing or empty, or its tags are refused (`tag_checks.py`).
    """

    settings: TokenClassificationData

    def __init__(
        self,
        settings: TokenClassificationData,
        tokenizer: WordPieceTokenizer,
        *,
        labels: Sequence[str] | None = None,
        split: EvaluationSplit | None = None,
        length: TrainingLength | None = None,
    ) -> None:
        super().__init__(settings, tokenizer, length)
        read = self._read(split)
        for name, (examples, *_) in read.items():
            _check_tagged(examples, name)
        self.spans = self._mark_spans(read, labels)
        training_tags = set(labels) if labels is not None else tags_in(read["train"].examples)
        self._check_tags({name: examples for name, (examples, *_) in read.items()}, training_tags)
        self.labels = list(labels) if labels is not None else self._labels(read["train"].examples)
        if settings.document_context:
            _check_documents(read.values())
        self._training_tags = training_tags
        self.splits |= {name: self._encoded(name, each) for name, each in read.items()}

    def _encoded(self, split: str, read: SplitExamples[TaggedSentence]) -> EncodedWords:
        self._report_unseen(read.examples, split)
        training = split == "train"
        return EncodedWords(
            read.examples, self.tokenizer, self.settings, self.labels, read.subsets, training, self.spans
        )

    def _encode(self, split: str, read: SplitExamples[TaggedSentence]) -> EncodedWords:
        _check_tagged(read.examples, split)
        self._check_tags({split: read.examples}, self._training_tags)
        return self._encoded(split, read)

    @property
    def tag_scheme(self) -> TagScheme | None:
        """The scheme that a CRF over the labels follows; None for plain labels."""
        return self.settings.tag_scheme if self.spans else None

    def _read_custom(self, source: str, split: str) -> Iterator[TaggedSentence]:
        return read_tagged(source, self.settings.token_column, self.settings.tag_column)

    def _check_tags(self, splits: dict[str, list[TaggedSentence]], training_tags: set[str]) -> None:
        """Check that the tags of all splits are of one kind, and that tags of spans follow their scheme."""
        for examples in splits.values():
            if self.spans:
                refuse_other_than_spans(examples, training_tags)
            elif not self.settings.tags_are_plain:
                refuse_spans(examples, training_tags)
        if self.spans:
            assert self.settings.source_scheme != "none"
            for split, scheme in schemes_of(splits, self.settings.source_scheme).items():
                check_scheme(splits[split], scheme, self.settings.broken_tags)

    def _mark_spans(self, read: dict[str, SplitExamples[TaggedSentence]], labels: Sequence[str] | None) -> bool:
        """Decide whether tags mark spans: by the settings, by a saved model's labels, or by the training file."""
        if self.settings.tags_are_plain:
            return False
        if labels is not None:
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
            raise InputError(f"{examples[0].location}: the training file has no tag except {OUTSIDE}")
        return all_tags(types, self.settings.tag_scheme)

    def _report_unseen(self, examples: Sequence[TaggedSentence], split: str) -> None:
        """Warn about gold tags that training does not have. They still count as gold, so predictions miss them."""
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
                "%s: %r does not occur in training; %s of %s like this cannot be found",
                location, name, count(len(unseen), "gold label"), split,
            )  # fmt: skip


def _check_tagged(examples: Sequence[TaggedSentence], split: str) -> None:
    hint = "; data.tag_column names the column of the tags"
    check_all_or_none(examples, split, "sentence", "tag", attribute="tags", hint=hint)


def _check_documents(read: Collection[SplitExamples[TaggedSentence]]) -> None:
    if not any(example.document for examples, *_ in read for example in examples):
        source = next(iter(read)).source
        raise InputError(
            f"{source}: no line begins a document (-DOCSTART-, # newdoc): data.document_context would do nothing"
        )


def labels_mark_spans(labels: Sequence[str], settings: TokenClassificationData) -> bool:
    """Return whether a model's labels are tags of spans."""
    return settings.source_scheme != "none" and labels_are_spans(labels)
