"""Labelled texts, single or in pairs: one of several classes, any number of them, or a number."""

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from bert_lightning.checks import RefusedValue
from bert_lightning.data.datasets.examples import LabelledText
from bert_lightning.data.datasets.labels import refuse_indicators, warn_of_look_alikes, without_disagreement
from bert_lightning.data.datasets.readers.texts import read_labelled_texts
from bert_lightning.data.loading.batching import Batch, assemble, to_batch
from bert_lightning.data.loading.module import Stage
from bert_lightning.data.reading.hub import HUB
from bert_lightning.data.reading.tables import read_rows
from bert_lightning.data.reading.values import is_hidden
from bert_lightning.errors import InputError
from bert_lightning.tasks.fine_tuning.data import (
    EncodedSplit,
    FineTuningData,
    FineTuningDataModule,
    Part,
    SplitExamples,
)
from bert_lightning.text.wordpiece import WordPieceTokenizer

log = logging.getLogger(__name__)
# Fewer rows may each have another label by chance.
_MIN_ROWS_OF_OWN_LABELS = 10
Problem = Literal["single-label", "multi-label", "regression"]


@dataclass(frozen=True)
class TextClassificationData(FineTuningData):
    """Tables of labelled texts (TSV, CSV, JSONL, Parquet, also compressed), `hub:NAME[:CONFIG[:SPLIT]]`, folders of
    text files a label, or a standard data set.

    Attributes:
        problem: one class of several, any number of them, or a number; of the standard data set, else one class.
        text_column: column of the text, or of the first of two.
        text_pair_column: column of the second text, or none.
        label_column: column of the label.
        column_names: names of the columns, where the file's first line does not give them.
        label_separator: between the labels of a multi-label row, where they are not a list.
        class_weights: weight of each class in the loss; `balanced` gives each class the same in all.
        positive_label: the class whose F1 is logged where there are two; the second one unless given.
        threshold: a label is predicted from this probability on, where there may be several.
    """

    task: ClassVar[str] = "text-classification"

    problem: Problem | None = None
    text_column: str = "text"
    text_pair_column: str | None = None
    label_column: str = "label"
    column_names: list[str] | None = None
    label_separator: str | None = None
    class_weights: dict[str, float] | Literal["balanced"] | None = None
    positive_label: str | None = None
    threshold: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.is_pair and self.max_seq_length < 5:
            # [CLS] and [SEP] around one token of each text.
            raise RefusedValue("max_seq_length", self.max_seq_length, "be at least 5")
        if not 0 < self.threshold < 1:
            raise RefusedValue("threshold", self.threshold, "be more than 0 and less than 1")
        self.refuse_with_dataset(
            "text_column", "text_pair_column", "label_column", "column_names", "label_separator", "problem"
        )
        if self.text_pair_column == self.text_column:
            raise ValueError(f"text_pair_column is {self.text_pair_column!r}, which is text_column too")
        if self.label_column in (self.text_column, self.text_pair_column):
            raise ValueError(f"label_column is {self.label_column!r}, which is the column of a text too")
        if self.label_separator is not None and (self.kind != "multi-label" or not self.label_separator):
            raise ValueError("label_separator is a text between the labels where data.problem is multi-label")
        if self.threshold != 0.5 and self.kind != "multi-label":
            raise ValueError(f"threshold does nothing where the problem is {self.kind}")
        if self.class_weights is not None and self.kind != "single-label":
            raise ValueError(f"class_weights does nothing where the problem is {self.kind}")
        if self.positive_label is not None and self.kind != "single-label":
            raise ValueError(f"positive_label does nothing where the problem is {self.kind}")
        if isinstance(self.class_weights, dict) and not all(
            isinstance(weight, int | float) and 0 <= weight < math.inf for weight in self.class_weights.values()
        ):
            raise ValueError(f"class_weights is {self.class_weights}; every weight must be a number, 0 or more")
        if isinstance(self.class_weights, dict) and self.class_weights and not any(self.class_weights.values()):
            raise ValueError(f"class_weights is {self.class_weights}; at least one must be more than 0")

    @property
    def kind(self) -> Problem:
        """The problem, of the standard data set where none is set."""
        if self.problem is not None:
            return self.problem
        standard = self.standard
        return (standard.problem_type if standard is not None else None) or "single-label"

    @property
    def is_pair(self) -> bool:
        """Whether there are two texts."""
        return self.standard.is_pair if self.standard is not None else self.text_pair_column is not None


class EncodedTexts(EncodedSplit):
    """Labelled texts, encoded.

    A batch holds `input_ids`, `token_type_ids`, `attention_mask` (B, S), `numbers` (B,), and where there are gold
    labels `labels`: (B,) ids, (B, L) of 0 and 1 for several labels, (B,) numbers for a regression.
    """

    def __init__(
        self,
        examples: Sequence[LabelledText],
        tokenizer: WordPieceTokenizer,
        settings: TextClassificationData,
        labels: Sequence[str],
        parts: Sequence[Part] | None = None,
    ) -> None:
        super().__init__(examples, parts)
        self.settings, self.tokenizer = settings, tokenizer
        seconds = [example.text_pair or "" for example in examples] if settings.is_pair else None
        self.firsts, self.seconds = encode_texts(
            tokenizer, [example.text for example in examples], seconds, settings.max_seq_length
        )
        self.lengths = np.array([len(first) for first in self.firsts], dtype=np.int64)
        if self.seconds is not None:
            self.lengths += np.array([len(second) for second in self.seconds], dtype=np.int64)
        # Files of one split may be labelled or not, such as GLUE's diagnostics beside a test set.
        self.labels = None if examples[0].label is None else _gold(examples, settings.kind, labels)

    @property
    def is_labelled(self) -> bool:
        """Whether there are gold labels."""
        return self.labels is not None

    def batch(self, features: NDArray[np.int64]) -> Batch:
        """Features to tensors."""
        seconds = [self.seconds[number] for number in features] if self.seconds is not None else None
        labels = {"labels": self.labels[features]} if self.labels is not None else {}
        firsts = [self.firsts[number] for number in features]
        return text_batch(self.tokenizer, firsts, seconds, self.settings.max_seq_length, numbers=features, **labels)


def _gold(examples: Sequence[LabelledText], kind: Problem, labels: Sequence[str]) -> NDArray[Any]:
    """(n,) ids or numbers, or (n, L) of 0 and 1.

    Raises:
        InputError: a row without a label, or a label that is not of training; the message names its location.
    """
    ids = {label: number for number, label in enumerate(labels)}

    def number_of(example: LabelledText, label: Any) -> int:
        if label not in ids:
            raise InputError(
                f"{example.location}: the label {label!r} does not occur in training; known: {', '.join(labels)}"
            )
        return ids[label]

    for example in examples:
        if example.label is None:
            raise InputError(f"{example.location}: this row has no label, though the first one has")
    if kind == "regression":
        return np.array([example.label for example in examples], dtype=np.float32)
    if kind == "single-label":
        return np.array([number_of(example, example.label) for example in examples], dtype=np.int64)
    gold = np.zeros((len(examples), len(labels)), dtype=np.float32)
    for row, example in enumerate(examples):
        assert isinstance(example.label, tuple)
        gold[row, [number_of(example, label) for label in example.label]] = 1
    return gold


class TextClassificationDataModule(FineTuningDataModule):
    """Serves labelled texts; the label names are those of the standard data set or of the training file.

    Attributes:
        labels: label names in id order.

    Raises:
        InputError: a file or column is missing or empty, or a label is not one of training.
    """

    def __init__(
        self,
        settings: TextClassificationData,
        tokenizer: WordPieceTokenizer,
        *,
        labels: Sequence[str] | None = None,
        stage: Stage | None = None,
    ) -> None:
        super().__init__(settings, tokenizer)
        self._known = labels
        read = self._read(stage)
        for split, (examples, parts, source) in read.items():
            self._check_form(examples)
            _warn_of_blank_texts(examples, source)
            if settings.kind == "single-label" and len(parts) == 1:
                kept = list(without_disagreement(examples, labels, source))
                read[split] = SplitExamples(kept, [parts[0]._replace(stop=len(kept))], source)
        if labels is None:
            refuse_indicators(read["train"].examples)
            labels = self._labels(read["train"].examples, read["train"].source)
        self.labels = list(labels)
        for split, (examples, parts, _) in read.items():
            refuse_indicators(examples, self.labels)
            self.splits[split] = EncodedTexts(examples, tokenizer, settings, self.labels, parts)
        self._check_names()

    @property
    def head(self) -> dict[str, Any]:
        """Labels and problem type, under transformers' name."""
        return {"labels": self.labels, "problem_type": PROBLEM_TYPES[self.settings.kind]}

    @property
    def class_weights(self) -> list[float] | None:
        """(L,) the weight of each class in the loss, or None where they are equal.

        `balanced`: n / (L * count), so that they are 1 on average over the examples; King and Zeng 2001, as in
        scikit-learn.
        """
        given = self.settings.class_weights
        if given is None or "train" not in self.splits:
            return None
        if given == "balanced":
            split = self.splits["train"]
            assert isinstance(split, EncodedTexts)
            assert split.labels is not None
            counts = np.bincount(split.labels, minlength=len(self.labels))
            weights: list[float] = (len(split.labels) / (len(self.labels) * np.maximum(counts, 1))).tolist()
            return weights
        return [float(given.get(label, 1.0)) for label in self.labels]

    def _check_names(self) -> None:
        for key, names in (
            ("class_weights", self.settings.class_weights if isinstance(self.settings.class_weights, dict) else ()),
            ("positive_label", [self.settings.positive_label] if self.settings.positive_label is not None else ()),
        ):
            for name in names:
                if name not in self.labels:
                    hint = _UNQUOTED.get(name, "")
                    raise InputError(f"data.{key}: {name!r} is no label; known: {', '.join(self.labels)}{hint}")
        if self.settings.positive_label is not None and len(self.labels) != 2:
            raise InputError(f"data.positive_label is for two labels; there are {len(self.labels)}")

    def _own(self, source: str, split: str) -> Iterator[LabelledText]:
        settings = self.settings
        return read_labelled_texts(
            source,
            settings.text_column,
            settings.text_pair_column,
            settings.label_column,
            column_names=settings.column_names,
            label_separator=settings.label_separator if settings.kind == "multi-label" else None,
            numeric=settings.kind == "regression",
            labelled=split != "test" or self._is_labelled(source),
        )

    def _check_form(self, examples: Sequence[LabelledText]) -> None:
        multiple = self.settings.kind == "multi-label"
        for example in examples:
            if example.label is not None and isinstance(example.label, tuple) != multiple:
                raise InputError(
                    f"{example.location}: {'one label' if multiple else 'a list of labels'}, but data.problem is "
                    f"{self.settings.kind}{'; data.label_separator says how to split it' if multiple else ''}"
                )

    def _is_labelled(self, source: str) -> bool:
        """Whether a test file has labels: a table in which no row has the column filled has none.

        Where -1 may be a label it counts as one, except in a regression whose every row has it. A column whose name
        differs from the label column's in case, blanks or a plural s alone is warned about.
        """
        if not source.startswith(HUB) and Path(source).is_dir():
            return True
        name = self.settings.label_column
        may_be_label = self.settings.kind != "regression" and "-1" in (self._known or ())
        rows = read_rows(source, self.settings.column_names)
        first_row = next(rows, None)
        if first_row is None:
            return False
        near = [other for other in first_row.values if _without_plural(other) == _without_plural(name)]
        if near and name not in first_row.values:
            log.warning(
                "%s: no column %r, so the rows count as unlabelled; data.label_column %r names the one that is there",
                source, name, near[0],
            )  # fmt: skip
        return any(
            not is_hidden(row.values.get(name), minus_one=not may_be_label) for row in chain((first_row,), rows)
        )

    def _labels(self, examples: Sequence[LabelledText], source: str) -> Sequence[str]:
        settings = self.settings
        if settings.kind == "regression":
            return [settings.label_column]
        if settings.standard is not None and settings.standard.labels is not None:
            return settings.standard.labels
        labels: list[str] = []
        for example in examples:
            labels += example.label if isinstance(example.label, tuple) else [str(example.label)]
        distinct = sort_labels(labels)
        if len(distinct) < 2 and settings.kind == "single-label":
            raise InputError(f"{source}: every row has the label {distinct[0]!r}: at least two are needed")
        if not distinct:
            raise InputError(f"{source}: no row has a label")
        if settings.kind == "single-label" and len(distinct) == len(examples) >= _MIN_ROWS_OF_OWN_LABELS:
            log.warning(
                "%s: each of the %d rows has a label of its own, such as %r: is data.label_column %r a column of ids "
                "or of numbers (data.problem regression)?",
                source, len(examples), distinct[0], settings.label_column,
            )  # fmt: skip
        warn_of_look_alikes(distinct, source)
        return distinct


# How YAML reads some names without quotes -> the hint for whoever wrote them.
_UNQUOTED = {
    **{
        str(value): f"; YAML reads {names} without quotes as a truth value: put quotes around the name"
        for value, names in ((True, "yes, on and true"), (False, "no, off and false"))
    },
    "None": "; YAML reads null and ~ without quotes as no value: put quotes around the name",
}

# data.problem -> transformers' name for it
PROBLEM_TYPES = {
    "single-label": "single_label_classification",
    "multi-label": "multi_label_classification",
    "regression": "regression",
}


def _without_plural(name: str) -> str:
    return name.strip().lower().removesuffix("s")


def _warn_of_blank_texts(examples: Sequence[LabelledText], source: str) -> None:
    """Warn about texts that are empty or blank: an empty cell is read as a text, but often means a missing value."""
    blank = [
        example
        for example in examples
        if not example.text.strip() or (example.text_pair is not None and not example.text_pair.strip())
    ]
    if blank:
        log.warning(
            "%s: a text is empty or blank; %d such row(s) in all of %s", blank[0].location, len(blank), source
        )


def sort_labels(labels: Iterable[str]) -> list[str]:
    """Distinct labels in a fixed order: by value if all are numbers, by name otherwise."""
    distinct = sorted(set(labels))
    try:
        values = {label: float(label) for label in distinct}
    except ValueError:
        return distinct
    return sorted(distinct, key=values.__getitem__) if all(map(math.isfinite, values.values())) else distinct


def encode_texts(
    tokenizer: WordPieceTokenizer, texts: Sequence[str], pairs: Sequence[str] | None, max_seq_length: int
) -> tuple[list[list[int]], list[list[int]] | None]:
    """Ids of each text (and each second text), cut so that with the special tokens they fit.

    A pair is cut token by token from the end of the longer part (tie: the second);
    `run_classifier.py: _truncate_seq_pair`.
    """
    firsts = tokenizer.encode_batch(texts)
    if pairs is None:
        return [first[: max_seq_length - 2] for first in firsts], None
    limit = max_seq_length - 3
    seconds = tokenizer.encode_batch(pairs)
    for number, (first, second) in enumerate(zip(firsts, seconds, strict=True)):
        if len(first) + len(second) > limit:
            keep = min(len(first), max(limit - len(second), -(-limit // 2)))
            firsts[number], seconds[number] = first[:keep], second[: limit - keep]
    return firsts, seconds


def text_batch(
    tokenizer: WordPieceTokenizer,
    firsts: list[list[int]],
    seconds: list[list[int]] | None,
    max_seq_length: int,
    **labels: NDArray[Any],
) -> Batch:
    """Encoded texts to padded tensors."""
    arrays = assemble(firsts, seconds, tokenizer.cls_id, tokenizer.sep_id, tokenizer.pad_id, max_seq_length)
    return to_batch(*arrays, **labels)
