"""Encoded texts and pairs of texts, and the base of custom tasks that score each of them."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bert_lightning.data.datasets.examples import LabelledText
from bert_lightning.data.loading.batching import Batch
from bert_lightning.data.loading.encoding import encode_texts, text_batch
from bert_lightning.data.loading.module import EvaluationSplit, TrainingLength
from bert_lightning.data.reading.tables import Row, column, read_rows
from bert_lightning.errors import InputError
from bert_lightning.model import BertForSequenceClassification
from bert_lightning.tasks.explained import Explained, number_of
from bert_lightning.tasks.fine_tuning.data import FineTuningDataModule
from bert_lightning.tasks.fine_tuning.explained import explained_text
from bert_lightning.tasks.fine_tuning.report import Report
from bert_lightning.tasks.fine_tuning.settings import FineTuningData, HeadSettings, refuse_equal_columns
from bert_lightning.tasks.fine_tuning.splits import EncodedSplit, SplitExamples, Subset, check_all_or_none
from bert_lightning.tasks.fine_tuning.task import FineTuningTask, Logits
from bert_lightning.tasks.spec import TaskSpec
from bert_lightning.text.wordpiece import WordPieceTokenizer

Targets = NDArray[Any]
"""(n, ...) the targets of n texts, as numbers."""


class TextSplit(EncodedSplit[LabelledText]):
    """Labelled texts, encoded.

    A batch holds `input_ids`, `token_type_ids`, `attention_mask` (B, S) and `numbers` (B,). With gold labels it also
    holds `labels` (B, ...).

    Attributes:
        labels: (n, ...) the gold labels as numbers; None if there are none.
    """

    def __init__(
        self,
        examples: Sequence[LabelledText],
        tokenizer: WordPieceTokenizer,
        settings: FineTuningData,
        labels: Targets | None,
        subsets: Sequence[Subset] | None = None,
    ) -> None:
        super().__init__(examples, subsets)
        self.settings, self.tokenizer, self.labels = settings, tokenizer, labels
        self.firsts, self.seconds = self._sequences(examples)
        self.lengths = np.array([len(first) for first in self.firsts], dtype=np.int64)
        if self.seconds is not None:
            self.lengths += np.array([len(second or ()) for second in self.seconds], dtype=np.int64)

    def _sequences(self, examples: Sequence[LabelledText]) -> tuple[list[list[int]], list[list[int] | None] | None]:
        """Return the ids of the first and, if there are pairs, of the second texts, without special tokens."""
        seconds: list[str | None] | None = None
        if self.settings.is_pair:
            seconds = [example.text_pair or "" for example in examples]
        elif any(example.text_pair is not None for example in examples):
            # Pairs of an earlier task are replayed among single texts.
            seconds = [example.text_pair for example in examples]
        firsts = [example.text for example in examples]
        return encode_texts(self.tokenizer, firsts, seconds, self.settings.max_seq_length)

    def part(self, numbers: NDArray[np.int64]) -> Self:
        part, sequences = super().part(numbers), numbers.tolist()
        part.firsts = [self.firsts[number] for number in sequences]
        part.seconds = [self.seconds[number] for number in sequences] if self.seconds is not None else None
        part.labels = self.labels[numbers] if self.labels is not None else None
        return part

    @property
    def is_labelled(self) -> bool:
        """Whether there are gold labels."""
        return self.labels is not None

    def batch(self, numbers: NDArray[np.int64]) -> Batch:
        return self._batch_with(numbers, self._seconds_of(numbers))

    def _seconds_of(self, numbers: NDArray[np.int64]) -> list[list[int] | None] | None:
        return [self.seconds[number] for number in numbers] if self.seconds is not None else None

    def _batch_with(self, numbers: NDArray[np.int64], seconds: list[list[int] | None] | None) -> Batch:
        """Return a batch of texts with the given second segments."""
        labels = {"labels": self.labels[numbers]} if self.labels is not None else {}
        firsts = [self.firsts[number] for number in numbers]
        return text_batch(self.tokenizer, firsts, seconds, self.settings.max_seq_length, numbers=numbers, **labels)


@dataclass(frozen=True)
class TextTaskData(FineTuningData):
    """Data of a `TextTask`: tables of texts or pairs of texts with a label.

    Attributes:
        text_column: column of the text, or of the first of two.
        text_pair_column: column of the second text, if there is one.
        label_column: column of the label. A test file may lack it.
        column_names: names of the columns, if the file's first line does not give them.
    """

    task: ClassVar[str] = ""
    """Filled in by `TextTask.spec`."""

    text_column: str = "text"
    text_pair_column: str | None = None
    label_column: str = "label"
    column_names: list[str] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.refuse_with_dataset("text_column", "text_pair_column", "label_column", "column_names")
        refuse_equal_columns(self.text_column, self.text_pair_column, self.label_column)

    @property
    def is_pair(self) -> bool:
        """Whether a sequence holds two texts."""
        standard = self.standard
        return (standard is not None and standard.is_pair) or self.text_pair_column is not None

    def without_dataset(self) -> Self:
        """Return the settings with the data set's pairs."""
        second = "text_pair" if self.is_pair and self.text_pair_column is None else self.text_pair_column
        return replace(super().without_dataset(), text_pair_column=second)


class TextTask(FineTuningTask[TextSplit, Logits, Tensor]):
    """Base of custom tasks over texts or pairs of texts: scores of each text, a loss, metrics and a prediction.

    A subclass has a `name` and the methods `losses`, `metrics` and `prediction`. `register_task(MyTask.spec())` makes
    it known. Reading, batches, checkpoints, distribution over processes and all commands then work as for the
    built-in tasks. The head is linear, or the one that `model.head` names.

    Example:
        ::

            class Length(TextTask):
                name = "length"
                metric_names = ("absolute_error",)

                def losses(self, scores, targets):
                    return (scores[:, 0] - targets).abs()

                def metrics(self, scores, targets):
                    return {"absolute_error": float(abs(scores[:, 0] - targets).mean())}

                def prediction(self, scores):
                    return {"length": float(scores[0])}
    """

    data_settings: ClassVar[type[TextTaskData]] = TextTaskData
    """Dataclass of the keys under `data`; a subclass of `TextTaskData` may add keys."""
    metric_names: Sequence[str] = ()
    """The names of what `metrics` returns."""
    monitor = "val/loss"
    monitor_mode = "min"
    loss_names: Sequence[str] = ("loss",)
    settings: TextTaskData

    @property
    def validation_metrics(self) -> Sequence[str]:  # type: ignore[override]
        """The loss and the metrics."""
        return ("loss", *self.metric_names)

    @property
    def line_columns(self) -> Sequence[str]:  # type: ignore[override]
        """The columns of the texts."""
        second = [self.settings.text_pair_column or "text_pair"] if self.settings.is_pair else []
        return [self.settings.text_column, *second]

    # -- for subclasses to implement -----------------------------------------------------------------------------

    @classmethod
    def num_outputs(cls, settings: Any) -> int:
        """Return K, the number of scores of a text."""
        return 1

    @classmethod
    def target(cls, label: str, settings: Any) -> float | Sequence[float]:
        """Turn a label, as a file has it, into a number or several.

        Raises:
            ValueError: it is not a label of this task.
        """
        return float(label)

    @abstractmethod
    def losses(self, scores: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each text, (B, K) and targets (B, ...) -> (B,)."""

    @abstractmethod
    def metrics(self, scores: NDArray[np.float32], targets: Targets) -> dict[str, float]:
        """Return the metrics of a whole split by name, (n, K) and targets (n, ...)."""

    @abstractmethod
    def prediction(self, scores: Logits) -> dict[str, object]:
        """Return the prediction for a text from its (K,) scores, as plain values by name."""

    # -- what follows from it ------------------------------------------------------------------------------------

    @classmethod
    def spec(cls) -> TaskSpec:
        """Return the description of this task, for `register_task`."""
        settings = cls.data_settings
        if settings.task != cls.name:
            namespace = {"task": cls.name, "__module__": settings.__module__, "__doc__": settings.__doc__}
            settings = type(settings.__name__, (settings,), namespace)
        return TaskSpec(
            name=cls.name,
            data_settings=settings,
            data=partial(TextTaskDataModule, cls),
            model=BertForSequenceClassification,
            task=cls,
            head_settings=HeadSettings,
            head_arguments=lambda head, data: {
                "num_labels": cls.num_outputs(data.settings),
                "problem_type": "regression",
            },
        )

    @property
    def task_settings(self) -> dict[str, object]:
        """The head, and how examples become sequences."""
        return {**self.model.head_settings, **super().task_settings}

    def counts(self, batch: Batch) -> Tensor:
        """Return (1,) the number of texts."""
        return torch.full((1,), len(batch["labels"]), device=batch["labels"].device)

    def compute(self, batch: Batch) -> Tensor:
        """Return (B, K) scores."""
        return self.model(batch["input_ids"], batch["token_type_ids"], batch["attention_mask"]).float()

    def sums_of(self, computed: Tensor, batch: Batch) -> Tensor:
        """Return (1,) the summed loss.

        Raises:
            ValueError: `losses` returns another shape than (B,).
        """
        losses = self.losses(computed, batch["labels"])
        if losses.shape != (len(computed),):
            expected = f"one loss per text, {(len(computed),)}"
            raise ValueError(f"{type(self).__name__}.losses returned {tuple(losses.shape)}; expected {expected}")
        return losses.sum()[None]

    def outputs_of(self, computed: Tensor, batch: Batch) -> list[Logits]:
        """Return (K,) the scores of each text."""
        return list(computed.cpu().numpy())

    def scores(self, split: TextSplit, outputs: list[Logits], subset: Subset) -> dict[str, float]:
        assert split.labels is not None, "only labelled splits are scored"
        return self.metrics(np.stack(outputs[subset.examples]), split.labels[subset.examples])

    def predictions(self, split: TextSplit, outputs: list[Logits]) -> list[dict[str, object]]:
        rows: list[dict[str, object]] = []
        for number, (example, scores) in enumerate(zip(split.examples, outputs, strict=True)):
            texts = dict(zip(self.line_columns, (example.text, example.text_pair), strict=False))
            gold = {"gold": split.labels[number].tolist()} if split.labels is not None else {}
            rows.append({**texts, **self.prediction(scores), **gold})
        return rows

    def report(self, split: TextSplit, outputs: list[Logits]) -> Report:
        """Report the metrics alone."""
        return Report("")

    def example_of(self, row: Row) -> LabelledText:
        first, *second = (column(row, name) for name in self.line_columns)
        return LabelledText(row.location, first, second[0] if second else None, None, "")

    def explained(self, row: Row, target: str | None) -> list[Explained]:
        """Return one of the K scores, which the target names by its number from 0; by default the highest one."""
        split = self.encode([self.example_of(row)])
        [scores] = self.outputs_for(split, 1)
        predicted = str(int(scores.argmax()))
        number = number_of(predicted if target is None else target, [*map(str, range(len(scores)))], "score")
        return [explained_text(self, split, number, str(number), predicted)]

    def encode(self, examples: list[LabelledText]) -> TextSplit:
        return TextSplit(examples, self.tokenizer, self.settings, None)


class TextTaskDataModule(FineTuningDataModule[LabelledText, TextSplit]):
    """Data module of a `TextTask`.

    Args:
        task: the class of the task, which turns labels into targets.
    """

    settings: TextTaskData

    def __init__(
        self,
        task: type[TextTask],
        settings: TextTaskData,
        tokenizer: WordPieceTokenizer,
        *,
        split: EvaluationSplit | None = None,
        length: TrainingLength | None = None,
    ) -> None:
        super().__init__(settings, tokenizer, length)
        self._task = task
        self.splits |= {name: self._encode(name, read) for name, read in self._read(split).items()}

    def _read_custom(self, source: str, split: str) -> Iterator[LabelledText]:
        settings = self.settings
        for number, row in enumerate(read_rows(source, settings.column_names)):
            label = None
            if split != "test" or row.values.get(settings.label_column) not in (None, ""):
                label = column(row, settings.label_column)
            second = column(row, settings.text_pair_column) if settings.text_pair_column is not None else None
            yield LabelledText(row.location, column(row, settings.text_column), second, label, str(number))

    def _encode(self, split: str, read: SplitExamples[LabelledText]) -> TextSplit:
        check_all_or_none(read.examples, split, "row", "label")
        labels = None
        if read.examples[0].label is not None:
            labels = np.array([self._target(example) for example in read.examples])
            labels = labels.astype(np.int64 if np.issubdtype(labels.dtype, np.integer) else np.float32)
        return TextSplit(read.examples, self.tokenizer, self.settings, labels, read.subsets)

    def _target(self, example: LabelledText) -> float | Sequence[float]:
        try:
            return self._task.target(str(example.label), self.settings)
        except ValueError as error:
            raise InputError(
                f"{example.location}: {example.label!r} is not a label of {self._task.name}: {error}"
            ) from None
