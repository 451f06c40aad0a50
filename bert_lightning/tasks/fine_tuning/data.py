"""What the data of all fine-tuning tasks share: where a split comes from, and batches of about one length."""

import hashlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from bert_lightning.checks import refuse_empty_paths, require_at_least
from bert_lightning.data.datasets.catalogue import locate, standard_set
from bert_lightning.data.datasets.standard_set import StandardSet
from bert_lightning.data.loading.batching import Batch, length_bucketed
from bert_lightning.data.loading.module import Stage, StepDataModule, TrainingPlan
from bert_lightning.data.reading.lines import format_suffix, is_compressed
from bert_lightning.errors import InputError
from bert_lightning.text.wordpiece import WordPieceTokenizer

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FineTuningData:
    """Settings that every fine-tuning task has.

    Attributes:
        dataset: name of a standard data set, which decides how its files are read; none for data of one's own.
        folder: where the files of `dataset` lie; from the hub where it is not set.
        train: file to train on; that of `dataset` unless given.
        validation: file to validate on, or none.
        test: file for `bert-lightning test`, or none.
        tokenizer: vocabulary file or folder; from the pre-trained checkpoint unless given.
        cased: whether a bare vocabulary file is cased.
        max_seq_length: longest sequence, special tokens included.
        batch_size: samples of one optimiser step, over all processes and accumulated micro-batches.
        evaluation_batch_size: samples of one batch in validation and test.
        max_train_samples: use only the first of the training examples.
        max_evaluation_samples: use only the first of the examples of validation and test.
        num_workers: processes that make batches ahead; 0 makes them in the training process.
    """

    task: ClassVar[str]
    """The task whose data sets can be named."""
    shortest: ClassVar[int] = 3
    """The least `max_seq_length`."""

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
            raise ValueError("folder does nothing without data.dataset: name the files with data.train and its like")
        if self.standard is not None and self.standard.task != self.task:
            raise ValueError(f"dataset is {self.dataset!r}, which is of the task {self.standard.task}")

    @property
    def is_pair(self) -> bool:
        """Return whether a sequence holds two texts, of which the second has token type 1."""
        return False

    @property
    def standard(self) -> StandardSet | None:
        """The standard data set that is named."""
        try:
            return standard_set(self.dataset) if self.dataset is not None else None
        except InputError as error:
            raise ValueError(f"dataset: {error}") from None

    def refuse_with_dataset(self, *names: str) -> None:
        """Check that columns are not chosen where a standard data set says what they are.

        Raises:
            ValueError: one is; the message names it.
        """
        defaults = {field.name: field.default for field in fields(self)}
        for name in names:
            if self.dataset is not None and getattr(self, name) != defaults[name]:
                raise ValueError(f"{name} does nothing with data.dataset, which knows its columns")

    def for_prediction(self) -> Self:
        """What predicting needs: how text is encoded, not where data lies."""
        return replace(
            self, folder=None, train=None, validation=None, test=None, tokenizer=None, max_train_samples=None
        )


class PartSource(NamedTuple):
    """A file of a split; only some standard data sets have more than one of them."""

    name: str
    """empty, or what distinguishes the part: `mismatched`"""
    source: str
    layout: str
    """the split whose layout the file has: GLUE's test files have other columns than the rest"""
    submission: str | None = None
    """the file of the GLUE submission that its predictions go to, without `.tsv`"""


def part_sources(settings: FineTuningData, stage: Stage | None) -> dict[str, list[PartSource]]:
    """Split -> its files: of the split that a stage scores, or of training and validation where it is None.

    Raises:
        InputError: the split is neither set nor found.
    """
    wanted = ("train", "validation") if stage is None else (stage,)
    found: dict[str, list[PartSource]] = {}
    for split in wanted:
        given: str | None = getattr(settings, split)
        if given is not None:
            found[split] = [_named_outright(settings, split, given)]
        elif settings.standard is not None and (split == wanted[0] or split in settings.standard.splits):
            located = locate(str(settings.dataset), split, settings.folder)
            found[split] = [PartSource(part.subset, source, split, part.submission) for part, source in located]
        elif split == wanted[0]:
            raise InputError(f"data.{split} is not set: name it with --data.{split} PATH")
    return found


def _named_outright(settings: FineTuningData, split: str, source: str) -> PartSource:
    """A file of one's own, or one of a standard data set, whichever of its splits it is of.

    Raises:
        InputError: its name does not say which layout of the standard data set it has.
    """
    standard = settings.standard
    if standard is None:
        return PartSource("", source, split)
    name = Path(source).stem if is_compressed(source) else Path(source).name
    for layout, parts in standard.splits.items():
        for part in parts:
            if source == part.hub or any(
                fnmatch(name.removesuffix(Path(file).suffix), Path(file).stem) for file in part.files
            ):
                return PartSource("", source, layout, part.submission if layout == "test" else None)
    if not standard.test_has_labels and format_suffix(source) == ".tsv":
        files = ", ".join(Path(part.files[0]).name for parts in standard.splits.values() for part in parts)
        raise InputError(
            f"{source}: the columns of {settings.dataset} depend on the file, and this name is none of {files}; "
            "leave data.dataset out to name columns"
        )
    return PartSource("", source, split)


class Part(NamedTuple):
    """Which examples of a split came from one of its files."""

    name: str
    start: int
    stop: int
    submission: str | None = None

    @property
    def prefix(self) -> str:
        """What its metrics' names begin with."""
        return f"{self.name}_" if self.name and self.start else ""


class EncodedSplit(ABC):
    """Examples of a split and the features computed from them: one an example, or several windows.

    Attributes:
        examples: in the order of the file.
        parts: the files that they came from.
        lengths: (features,) tokens of each feature.
    """

    def __init__(self, examples: Sequence[Any], parts: Sequence[Part] | None = None) -> None:
        self.examples = examples
        self.parts = list(parts) if parts is not None else [Part("", 0, len(examples))]

    lengths: NDArray[np.int64]

    @cached_property
    def by_length(self) -> NDArray[np.int64]:
        """The features, short ones first."""
        return np.argsort(self.lengths, kind="stable")

    @property
    @abstractmethod
    def is_labelled(self) -> bool:
        """Whether the examples have gold labels, so that they can be scored."""

    @abstractmethod
    def batch(self, features: NDArray[np.int64]) -> Batch:
        """Features to tensors; labels only where there are some."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the examples, wherever they were read."""
        digest = hashlib.sha256()
        for example in self.examples:
            digest.update(repr(example._replace(location="")).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()


class SplitExamples(NamedTuple):
    """All examples of a split, which file each came from, and the name of the first file."""

    examples: list[Any]
    parts: list[Part]
    source: str


class FineTuningDataModule(StepDataModule):
    """Serves features of about one length a batch.

    Attributes:
        settings: of the data.
        splits: split -> its examples and features.
    """

    def __init__(self, settings: FineTuningData, tokenizer: WordPieceTokenizer) -> None:
        super().__init__(tokenizer, settings.batch_size, settings.evaluation_batch_size, settings.num_workers)
        self.settings: Any = settings
        self.splits: dict[str, EncodedSplit] = {}

    @abstractmethod
    def _own(self, source: str, split: str) -> Iterator[Any]:
        """Read a source that belongs to no standard data set."""

    def _read(self, stage: Stage | None) -> dict[str, SplitExamples]:
        """The examples of the one split to be scored; those of all splits for training.

        Raises:
            InputError: there are none, or they cannot be read.
        """
        settings, found = self.settings, {}
        for split, sources in part_sources(settings, stage).items():
            limit = settings.max_train_samples if split == "train" else settings.max_evaluation_samples
            examples: list[Any] = []
            parts: list[Part] = []
            for name, source, layout, submission in sources:
                standard = settings.standard
                read = standard.read(source, layout) if standard is not None else self._own(source, split)
                start = len(examples)
                examples += first(read, limit)
                if len(examples) == start:
                    raise InputError(f"{source}: there are no examples in it")
                # A part of a set makes no submission.
                parts.append(Part(name, start, len(examples), submission if limit is None else None))
            found[split] = SplitExamples(examples, parts, sources[0].source)
        return found

    @property
    @abstractmethod
    def head(self) -> dict[str, Any]:
        """What the data decides of the model: labels, say."""

    @property
    def num_training_samples(self) -> int:
        """Features of the training split."""
        return len(self.splits["train"].lengths)

    @property
    def fingerprints(self) -> dict[str, str]:
        """SHA-256 over the examples of each split."""
        return {name: split.fingerprint for name, split in self.splits.items()}

    def training_batches(self, step: int, plan: TrainingPlan, rank: int, world_size: int) -> list[Batch]:
        """Features of about one length."""
        split = self.splits["train"]
        _, features = length_bucketed(plan.seed, split.lengths, self.batch_size, step, plan.num_steps)
        parts = np.split(features, plan.accumulate * world_size)[rank::world_size]
        return [{**split.batch(part), "samples": part} for part in parts]

    def num_evaluation_samples(self, stage: Stage) -> int:
        """Features of a split."""
        return len(self.splits[stage].lengths) if stage in self.splits else 0

    def evaluation_batch(self, stage: Stage, numbers: NDArray[np.int64]) -> Batch:
        """Features in order of length, so that little is padded."""
        split = self.splits[stage]
        return split.batch(split.by_length[numbers])


def check_all_or_none(
    examples: Sequence[Any], split: str, item: str, label: str, *, attribute: str = "label", hint: str = ""
) -> None:
    """Check that all examples of a split have a label; in a test split none may have one instead.

    Args:
        examples: the examples of one split.
        split: train, validation or test.
        item: the name of an example in messages.
        label: the name of its label in messages.
        attribute: the attribute that holds the label, or None if the source has none.
        hint: added to the message about an example without a label: how to name where the labels are.

    Raises:
        InputError: labels are missing; the message names the first example without one, or the first that differs.
    """
    labelled = getattr(examples[0], attribute) is not None
    if split != "test" and not labelled:
        raise InputError(f"{examples[0].location}: this {item} has no {label}{hint}")
    for example in examples:
        if (getattr(example, attribute) is not None) != labelled:
            raise InputError(
                f"{example.location}: this {item} has {'no' if labelled else 'a'} {label}, unlike the first"
            )


def first(examples: Iterable[Any], limit: int | None) -> Iterator[Any]:
    """The first so many, or all."""
    for number, example in enumerate(examples):
        if number == limit:
            return
        yield example
