"""Settings of text classification."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

from bert_lightning.checks import RefusedValue, require_at_least, require_between
from bert_lightning.tasks.fine_tuning.settings import FineTuningData, refuse_equal_columns

Problem = Literal["single-label", "multi-label", "regression"]


@dataclass(frozen=True)
class TextClassificationData(FineTuningData):
    """Data of text classification.

    Sources are tables of labelled texts (TSV, CSV, JSONL, Parquet, also compressed), `hub:NAME[:CONFIG[:SPLIT]]`,
    folders with one folder of text files per label, or a standard data set.

    Attributes:
        problem: single-label (one of several classes), multi-label (any number of them) or regression (a number); by
            default that of the standard data set, or single-label.
        text_column: column of the text, or of the first of two.
        text_pair_column: column of the second text, if there is one.
        label_column: column of the label.
        column_names: names of the columns, if the file's first line does not give them.
        label_separator: text between the labels of a multi-label row, if they are not a list.
        labels: all labels in the order of their ids, if the training data may lack some; by default those of the
            standard data set, or of the training data.
        label_prefix: text before each label of the data, which tells apart labels of several data sets.
        class_weights: weight of each class in the loss; with `balanced` each class has the same total weight.
        positive_label: the class whose F1 is logged if there are two classes; the second one by default.
        threshold: least probability with which a label is predicted, if the problem is multi-label.
        examples_per_class: train on this many examples of each class, which the seed of the split chooses.
        validation_per_class: validate on this many further examples of each class of the training file.
        examples_seed: seed of the split (13, 21, 42, 87 and 100 are those of LM-BFF); by default `seed_everything`.
    """

    task: ClassVar[str] = "text-classification"

    problem: Problem | None = None
    text_column: str = "text"
    text_pair_column: str | None = None
    label_column: str = "label"
    column_names: list[str] | None = None
    label_separator: str | None = None
    labels: list[str] | None = None
    label_prefix: str = ""
    class_weights: dict[str, float] | Literal["balanced"] | None = None
    positive_label: str | None = None
    threshold: float = 0.5
    examples_per_class: int | None = None
    validation_per_class: int | None = None
    examples_seed: int | None = None

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
        refuse_equal_columns(self.text_column, self.text_pair_column, self.label_column)
        if self.label_separator is not None and (self.kind != "multi-label" or not self.label_separator):
            raise ValueError("label_separator must be a text between labels, and needs data.problem multi-label")
        for name, is_set, kind in (
            ("threshold", self.threshold != 0.5, "multi-label"),
            ("class_weights", self.class_weights is not None, "single-label"),
            ("positive_label", self.positive_label is not None, "single-label"),
        ):
            if is_set and self.kind != kind:
                raise ValueError(f"{name} does nothing if the problem is {self.kind}")
        if self.kind == "regression" and (self.labels is not None or self.label_prefix):
            raise ValueError(
                f"{'labels' if self.labels else 'label_prefix'} does nothing if the problem is regression"
            )
        if self.labels is not None and (len(self.labels) < 2 or len({*self.labels}) < len(self.labels)):
            raise ValueError(f"labels is {self.labels}; it must name at least two labels, each once")
        self._check_class_weights()
        self._check_few_shot()

    def _check_class_weights(self) -> None:
        weights = self.class_weights
        if not isinstance(weights, dict):
            return
        if not all(isinstance(weight, int | float) and 0 <= weight < math.inf for weight in weights.values()):
            raise ValueError(f"class_weights is {weights}; every weight must be a number, 0 or more")
        if weights and not any(weights.values()):
            raise ValueError(f"class_weights is {weights}; at least one must be more than 0")

    def _check_few_shot(self) -> None:
        require_at_least(self, 1, "examples_per_class", "validation_per_class")
        require_between(self, 0, 2**32 - 1, "examples_seed")
        if self.examples_per_class is None:
            for name in ("validation_per_class", "examples_seed"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name} does nothing without data.examples_per_class")
            return
        if self.kind != "single-label":
            raise ValueError(f"examples_per_class needs classes, and the problem is {self.kind}")
        if self.max_train_samples is not None:
            raise ValueError("examples_per_class chooses among all training examples, so leave max_train_samples out")
        for name in ("validation", "max_evaluation_samples"):
            if self.validation_per_class is not None and getattr(self, name) is not None:
                raise ValueError(
                    f"validation_per_class takes examples of the training file and says how many: leave {name} out"
                )

    @property
    def kind(self) -> Problem:
        """The problem that is set, or else that of the standard data set."""
        if self.problem is not None:
            return self.problem
        standard = self.standard
        return (standard.problem_type if standard is not None else None) or "single-label"

    @property
    def is_pair(self) -> bool:
        """Whether a sequence holds two texts."""
        standard = self.standard
        return (standard is not None and standard.is_pair) or self.text_pair_column is not None

    def without_dataset(self) -> Self:
        """Return the settings with the data set's problem and pairs."""
        second = "text_pair" if self.is_pair and self.text_pair_column is None else self.text_pair_column
        return replace(self, dataset=None, folder=None, problem=self.kind, text_pair_column=second)
