"""Settings that every fine-tuning task has."""

from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Self

from bert_lightning.checks import nearest, refuse_empty_paths, require_at_least
from bert_lightning.data.datasets.catalogue import standard_set
from bert_lightning.data.datasets.examples import EXAMPLE_TYPES
from bert_lightning.data.datasets.standard_set import StandardSet
from bert_lightning.errors import InputError
from bert_lightning.model.heads import HEADS, LINEAR


@dataclass(frozen=True)
class FineTuningData:
    """Data of a fine-tuning task.

    Attributes:
        dataset: name of a standard data set, which decides how its files are read; none for custom data.
        folder: folder with the files of `dataset`; without it they come from the hub.
        train: file to train on; by default that of `dataset`.
        validation: file to validate on; by default that of `dataset`, if it has one.
        test: file for `bert-lightning test`; by default that of `dataset`, if it has one.
        tokenizer: vocabulary file or folder; by default that of the pre-trained checkpoint.
        cased: whether a bare vocabulary file is cased.
        max_seq_length: longest sequence, special tokens included.
        batch_size: samples of one optimiser step, over all processes and accumulated micro-batches.
        evaluation_batch_size: samples of one batch in validation and test.
        max_train_samples: use only this many training examples, the first ones.
        max_evaluation_samples: use only this many examples of validation and test, the first ones of each file.
        num_workers: processes that make batches ahead; 0 makes them in the training process.
    """

    task: ClassVar[str]
    """The task whose data sets can be named."""
    shortest: ClassVar[int] = 3
    """The smallest `max_seq_length`."""

    dataset: str | None = None
    folder: str | None = None
    train: str | None = None
    validation: str | None = None
    test: str | None = None
    tokenizer: str | None = None
    cased: bool = False
    max_seq_length: int = 128
    batch_size: int = 32
    evaluation_batch_size: int = 64
    max_train_samples: int | None = None
    max_evaluation_samples: int | None = None
    num_workers: int = 0

    def __post_init__(self) -> None:
        refuse_empty_paths(self, "folder", "train", "validation", "test", "tokenizer")
        require_at_least(self, self.shortest, "max_seq_length")
        require_at_least(
            self, 1, "batch_size", "evaluation_batch_size", "max_train_samples", "max_evaluation_samples"
        )
        require_at_least(self, 0, "num_workers")
        if self.folder is not None and self.dataset is None:
            raise ValueError(
                "folder does nothing without data.dataset: name files with data.train, data.validation and data.test"
            )
        if self.standard is not None and self.standard.task != self.task:
            task = self.standard.task
            near = "" if task in EXAMPLE_TYPES else nearest(task, EXAMPLE_TYPES, cutoff=0.7)
            hint = near if near.endswith("?") else ""
            raise ValueError(f"dataset is {self.dataset!r}, which is of the task {task}{hint}")

    @property
    def longest(self) -> int:
        """The longest sequence, special tokens included."""
        return self.max_seq_length

    @property
    def is_pair(self) -> bool:
        """Whether a sequence holds two texts, of which the second has token type 1."""
        return False

    @property
    def standard(self) -> StandardSet | None:
        """The standard data set that `dataset` names."""
        try:
            return standard_set(self.dataset) if self.dataset is not None else None
        except InputError as error:
            raise ValueError(f"dataset: {error}") from None

    def refuse_with_dataset(self, *names: str) -> None:
        """Check that columns are not set together with a standard data set, whose columns are fixed.

        Raises:
            ValueError: a column is set; the message names it.
        """
        if self.standard is None or self.standard.reads_columns:
            return
        defaults = {field.name: field.default for field in fields(self)}
        for name in names:
            if getattr(self, name) != defaults[name]:
                raise ValueError(f"{name} does nothing with data.dataset, whose columns are fixed")

    def for_prediction(self) -> Self:
        """Return the settings that prediction needs: how text is encoded, not where the data is.

        A custom data set is left out, so that prediction does not need its module.
        """
        settings = self.without_dataset() if self.standard is not None and self.standard.registered else self
        return replace(
            settings, folder=None, train=None, validation=None, test=None, tokenizer=None, max_train_samples=None
        )

    def without_dataset(self) -> Self:
        """Return the settings with the properties of the data set in their own keys."""
        return replace(self, dataset=None, folder=None)


@dataclass(frozen=True)
class HeadSettings:
    """Settings of a head that can be exchanged for a custom one.

    Attributes:
        name: linear, or the registered name of a custom head. `class_path` names a class instead.
        init_args: arguments of a custom head.
    """

    name: str = LINEAR
    init_args: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.name != LINEAR:
            HEADS.require("name", self.name, LINEAR)
        elif self.init_args:
            raise ValueError(
                f"init_args is {self.init_args}, but the linear head takes none; only a custom head does"
            )


def refuse_equal_columns(text_column: str, text_pair_column: str | None, label_column: str) -> None:
    """Refuse a column that would be read as two things.

    Raises:
        ValueError: two of them are the same. The message begins with the name of the field.
    """
    if text_pair_column == text_column:
        raise ValueError(f"text_pair_column is {text_pair_column!r}, which is text_column too")
    if label_column in (text_column, text_pair_column):
        raise ValueError(f"label_column is {label_column!r}, which is the column of a text too")
