"""The data of text classification: labelled texts or pairs of texts."""

import logging
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bert_lightning.data.datasets.examples import LabelledText
from bert_lightning.data.datasets.labels import refuse_indicators, warn_of_look_alikes, without_disagreement
from bert_lightning.data.datasets.readers.texts import read_labelled_texts
from bert_lightning.data.loading.module import EvaluationSplit, TrainingLength
from bert_lightning.data.reading.hub import HUB
from bert_lightning.data.reading.tables import read_rows
from bert_lightning.data.reading.values import is_hidden
from bert_lightning.errors import InputError
from bert_lightning.model.losses import ProblemType
from bert_lightning.tasks.fine_tuning.data import FineTuningDataModule, ReadSplit, sort_labels
from bert_lightning.tasks.fine_tuning.splits import SplitExamples, Subset, label_id, number_labels
from bert_lightning.tasks.fine_tuning.texts import TextSplit
from bert_lightning.tasks.text_classification.few_shot import few_shot
from bert_lightning.tasks.text_classification.settings import Problem, TextClassificationData
from bert_lightning.text.wordpiece import WordPieceTokenizer
from bert_lightning.wording import count

log = logging.getLogger(__name__)
# In fewer rows, each may have a different label by chance.
_MIN_ROWS_OF_DISTINCT_LABELS = 10
PROBLEM_TYPES: dict[Problem, ProblemType] = {
    "single-label": "single_label_classification",
    "multi-label": "multi_label_classification",
    "regression": "regression",
}
"""`data.problem` -> the name that transformers has for it."""
# Names that YAML reads differently without quotation marks -> a hint for the user.
_UNQUOTED = {
    **{
        str(value): f"; YAML reads {names} without quotes as a truth value: put quotes around the name"
        for value, names in ((True, "yes, on and true"), (False, "no, off and false"))
    },
    "None": "; YAML reads null and ~ without quotes as no value: put quotes around the name",
}


class EncodedTexts(TextSplit):
    """Texts with classes or numbers, encoded.

    The `labels` of a batch are (B,) ids, (B, L) of 0 and 1 for a multi-label problem, or (B,) numbers for a
    regression.
    """

    settings: TextClassificationData

    def __init__(
        self,
        examples: Sequence[LabelledText],
        tokenizer: WordPieceTokenizer,
        settings: TextClassificationData,
        labels: Sequence[str],
        subsets: Sequence[Subset] | None = None,
    ) -> None:
        # A split may be labelled in one subset only, such as GLUE's test set with its diagnostics.
        gold = None if examples[0].label is None else _gold(examples, settings.kind, labels)
        super().__init__(examples, tokenizer, settings, gold, subsets)


def _gold(
    examples: Sequence[LabelledText], kind: Problem, labels: Sequence[str]
) -> NDArray[np.int64] | NDArray[np.float32]:
    """Return (n,) ids or numbers, or (n, L) of 0 and 1.

    Raises:
        InputError: a row has no label, or a label that is not one of training; the message names its location.
    """
    for example in examples:
        if example.label is None:
            raise InputError(f"{example.location}: this row has no label, although the first one has one")
    if kind == "regression":
        return np.array([example.label for example in examples], dtype=np.float32)
    if kind == "single-label":
        return number_labels(examples, labels)
    ids = {label: number for number, label in enumerate(labels)}
    gold = np.zeros((len(examples), len(labels)), dtype=np.float32)
    for number, example in enumerate(examples):
        assert isinstance(example.label, tuple)
        gold[number, [label_id(ids, example, label) for label in example.label]] = 1
    return gold


class TextClassificationDataModule(FineTuningDataModule[LabelledText, EncodedTexts]):
    """Data module of labelled texts. The labels are those of the standard data set or of the training file.

    Attributes:
        labels: label names in the order of their ids.

    Raises:
        InputError: a file or column is missing or empty, or a label is not one of training.
    """

    settings: TextClassificationData

    def __init__(
        self,
        settings: TextClassificationData,
        tokenizer: WordPieceTokenizer,
        *,
        labels: Sequence[str] | None = None,
        split: EvaluationSplit | None = None,
        length: TrainingLength | None = None,
    ) -> None:
        super().__init__(settings, tokenizer, length)
        self._known_labels = labels
        read = {name: self._checked(each) for name, each in self._read(split).items()}
        if labels is None:
            refuse_indicators(read["train"].examples)
            labels = self._labels(read["train"].examples, read["train"].source)
        self.labels = self._known_labels = list(labels)
        self.splits |= {name: self._encoded(each) for name, each in read.items()}
        self._check_label_names()

    def _read(self, scored: ReadSplit | None) -> dict[str, SplitExamples[LabelledText]]:
        """Read the splits. With `examples_per_class`, the seed of the split chooses among the training examples."""
        settings = self.settings
        per_class, further = settings.examples_per_class, settings.validation_per_class
        if per_class is None or scored == "test" or (scored == "validation" and further is None):
            return super()._read(scored)
        splits = super()._read(None if further is None else "train")
        every = splits.pop("train")
        if scored is None:
            splits["train"] = self._few(every, per_class, "examples_per_class")
        if further is not None:
            splits["validation"] = self._few(every, further, "validation_per_class", skipped=per_class)
        return splits

    def _few(
        self, read: SplitExamples[LabelledText], per_class: int, key: str, skipped: int = 0
    ) -> SplitExamples[LabelledText]:
        seed = self.settings.examples_seed
        if seed is None:
            raise InputError(f"data.examples_seed is not set, and data.{key} needs the seed of the split")
        labelled = without_disagreement(read.examples, self._known_labels, read.source)
        chosen = few_shot(labelled, per_class, seed, source=read.source, key=f"data.{key}", skipped=skipped)
        return SplitExamples(chosen, [Subset("", 0, len(chosen))], read.source)

    def unlabelled(self, source: str | None, limit: int | None = None) -> list[LabelledText]:
        """Read texts that no split has.

        Args:
            source: a table with the text columns; None for the rest of the training file, whose labels are kept for
                comparison.
            limit: read only so many of them, the first ones.

        Raises:
            InputError: there are none, or a column is missing.
        """
        settings = self.settings
        if source is not None:
            second = settings.text_pair_column or "text_pair"
            texts = read_labelled_texts(
                source,
                settings.text_column,
                second if settings.is_pair else None,
                settings.label_column,
                column_names=settings.column_names,
                labelled=False,
            )
        else:
            used = {example.location for split in self.splits.values() for example in split.examples}
            [every] = super()._read("train").values()
            checked = self._checked(every).examples
            texts = (example for example in checked if example.location not in used)
        found = list(islice(texts, limit))
        if not found:
            if source is not None:
                raise InputError(f"{source}: there are no texts")
            raise InputError(
                "it is not set, and the run trains or validates on all examples of the training file: name a table, "
                "or let data.examples_per_class leave some out"
            )
        if source is not None:
            _warn_of_blank_texts(found, source)
        return found

    def _checked(self, read: SplitExamples[LabelledText]) -> SplitExamples[LabelledText]:
        """Check the examples of a split, leave out pairs without a gold label, and put the prefix before labels."""
        examples, subsets, source = read
        self._check_label_lists(examples)
        _warn_of_blank_texts(examples, source)
        if self.settings.kind == "single-label" and len(subsets) == 1:
            examples = list(without_disagreement(examples, self._known_labels, source))
            subsets = [subsets[0]._replace(stop=len(examples))]
        if self.settings.label_prefix:
            examples = [_with_prefix(example, self.settings.label_prefix) for example in examples]
        return SplitExamples(examples, subsets, source)

    def _encoded(self, read: SplitExamples[LabelledText]) -> EncodedTexts:
        refuse_indicators(read.examples, self.labels)
        return EncodedTexts(read.examples, self.tokenizer, self.settings, self.labels, read.subsets)

    def _encode(self, split: str, read: SplitExamples[LabelledText]) -> EncodedTexts:
        return self._encoded(self._checked(read))

    def _with_added(self, split: EncodedTexts, added: Sequence[LabelledText]) -> EncodedTexts:
        subset = Subset("", 0, len(split.examples) + len(added))
        mixed = EncodedTexts([*split.examples, *added], self.tokenizer, self.settings, self.labels, [subset])
        if self.settings.is_pair and mixed.seconds is not None:
            # Without a second text, there is no second [SEP].
            for number, example in enumerate(added, len(split.examples)):
                if example.text_pair is None:
                    mixed.seconds[number] = None
        return mixed

    @property
    def class_weights(self) -> list[float] | None:
        """(L,) the weight of each class in the loss, or None if all are equal.

        `balanced`: n / (L * count), so that the mean weight of the examples is 1; King and Zeng 2001, as in
        scikit-learn.
        """
        weights = self.settings.class_weights
        if weights is None or "train" not in self.splits:
            return None
        if weights == "balanced":
            labels = self.splits["train"].labels
            assert labels is not None
            counts = np.bincount(labels.astype(np.int64), minlength=len(self.labels))
            balanced: list[float] = (len(labels) / (len(self.labels) * np.maximum(counts, 1))).tolist()
            return balanced
        return [float(weights.get(label, 1.0)) for label in self.labels]

    def _check_label_names(self) -> None:
        weights, positive = self.settings.class_weights, self.settings.positive_label
        for key, names in (
            ("class_weights", list(weights) if isinstance(weights, dict) else []),
            ("positive_label", [positive] if positive is not None else []),
        ):
            for name in names:
                if name not in self.labels:
                    hint = _UNQUOTED.get(name, "")
                    raise InputError(f"data.{key}: {name!r} is not a label; known: {', '.join(self.labels)}{hint}")
        if positive is not None and len(self.labels) != 2:
            raise InputError(f"data.positive_label is for two labels; there are {len(self.labels)}")

    def _read_custom(self, source: str, split: str) -> Iterator[LabelledText]:
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

    def _check_label_lists(self, examples: Sequence[LabelledText]) -> None:
        """Check that examples have a list of labels if the problem is multi-label, and a single label otherwise."""
        multiple = self.settings.kind == "multi-label"
        for example in examples:
            if example.label is not None and isinstance(example.label, tuple) != multiple:
                raise InputError(
                    f"{example.location}: this row has {'one label' if multiple else 'a list of labels'}, but "
                    f"data.problem is {self.settings.kind}"
                    f"{'; set data.label_separator to the text between labels' if multiple else ''}"
                )

    def _is_labelled(self, source: str) -> bool:
        """Return whether a test file has labels. A table has none if the column is empty or -1 in every row.

        But -1 is a label if the saved model has that label and the problem is not a regression. A warning is logged
        if a column's name differs from that of the label column only in case, blanks or a plural s.
        """
        if not source.startswith(HUB) and Path(source).is_dir():
            return True
        name = self.settings.label_column
        may_be_label = self.settings.kind != "regression" and "-1" in (self._known_labels or ())
        rows = read_rows(source, self.settings.column_names)
        first_row = next(rows, None)
        if first_row is None:
            return False
        near = [each for each in first_row.values if _without_plural(each) == _without_plural(name)]
        if near and name not in first_row.values:
            log.warning(
                "%s: no column %r, so the rows count as unlabelled; set data.label_column to %r to read their labels",
                source, name, near[0],
            )  # fmt: skip
        return any(
            not is_hidden(row.values.get(name), minus_one=not may_be_label) for row in chain((first_row,), rows)
        )

    def _labels(self, examples: Sequence[LabelledText], source: str) -> Sequence[str]:
        settings = self.settings
        if settings.kind == "regression":
            return [settings.label_column]
        if settings.labels is not None:
            return [settings.label_prefix + label for label in settings.labels]
        if settings.standard is not None and settings.standard.labels is not None:
            return [settings.label_prefix + label for label in settings.standard.labels]
        labels: list[str] = []
        for example in examples:
            labels += example.label if isinstance(example.label, tuple) else [str(example.label)]
        distinct = sort_labels(labels)
        if len(distinct) < 2 and settings.kind == "single-label":
            raise InputError(f"{source}: every row has the label {distinct[0]!r}: at least two are needed")
        if not distinct:
            raise InputError(f"{source}: no row has a label")
        if settings.kind == "single-label" and len(distinct) == len(examples) >= _MIN_ROWS_OF_DISTINCT_LABELS:
            log.warning(
                "%s: each of the %d rows has a different label, such as %r: is data.label_column %r a column of ids "
                "or of numbers (data.problem regression)?",
                source, len(examples), distinct[0], settings.label_column,
            )  # fmt: skip
        warn_of_look_alikes(distinct, source)
        return distinct


def _with_prefix(example: LabelledText, prefix: str) -> LabelledText:
    label = example.label
    if isinstance(label, tuple):
        return example._replace(label=tuple(prefix + each for each in label))
    return example._replace(label=prefix + label) if isinstance(label, str) else example


def _without_plural(name: str) -> str:
    return name.strip().lower().removesuffix("s")


def _warn_of_blank_texts(examples: Sequence[LabelledText], source: str) -> None:
    """Warn about empty or blank texts, which often mean a missing value."""
    blank = [
        example
        for example in examples
        if not example.text.strip() or (example.text_pair is not None and not example.text_pair.strip())
    ]
    if blank:
        log.warning("%s: a text is empty or blank, in %s of %s", blank[0].location, count(len(blank), "row"), source)
