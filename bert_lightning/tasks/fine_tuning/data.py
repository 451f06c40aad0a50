"""The data module of all fine-tuning tasks: batches of sequences of about the same length."""

import math
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from bert_lightning.data.loading.batching import Batch, length_bucketed
from bert_lightning.data.loading.module import EvaluationSplit, StepDataModule, TrainingLength, TrainingPlan
from bert_lightning.errors import InputError
from bert_lightning.tasks.fine_tuning.settings import FineTuningData
from bert_lightning.tasks.fine_tuning.sources import subset_sources
from bert_lightning.tasks.fine_tuning.splits import EncodedSplit, Example, SplitExamples, Subset
from bert_lightning.text.wordpiece import WordPieceTokenizer

Encoded = TypeVar("Encoded", bound=EncodedSplit)
ReadSplit = EvaluationSplit | Literal["train"]
"""A split that is read by itself."""


class FineTuningDataModule(StepDataModule, Generic[Example, Encoded]):
    """Data module that makes batches of sequences of about the same length.

    A subclass reads the examples in its constructor (`_read`) and fills `splits`. With `_encode`, it also reads
    further splits later.

    Attributes:
        settings: the keys under `data`.
        splits: split -> its examples and sequences.
    """

    settings: FineTuningData

    def __init__(
        self, settings: FineTuningData, tokenizer: WordPieceTokenizer, length: TrainingLength | None = None
    ) -> None:
        super().__init__(tokenizer, settings.batch_size, settings.evaluation_batch_size, settings.num_workers, length)
        self.settings = settings
        self.splits: dict[str, Encoded] = {}

    @abstractmethod
    def _read_custom(self, source: str, split: str) -> Iterator[Example]:
        """Read a source that belongs to no standard data set."""

    def _read(self, scored: ReadSplit | None) -> dict[str, SplitExamples[Example]]:
        """Read the examples of the one split that is scored, or of all splits that training uses.

        Raises:
            InputError: a source has no examples or cannot be read.
        """
        settings, splits = self.settings, {}
        for split, sources in subset_sources(settings, scored).items():
            limit = settings.max_train_samples if split == "train" else settings.max_evaluation_samples
            examples: list[Example] = []
            subsets: list[Subset] = []
            for name, source, layout, submission in sources:
                standard = settings.standard
                if standard is None or standard.reads_columns:
                    read = self._read_custom(source, split)
                else:
                    read = standard.read(source, layout)
                start = len(examples)
                examples += islice(read, limit)
                if len(examples) == start:
                    raise InputError(f"{source}: there are no examples in this source")
                # GLUE's server takes predictions for whole sets only.
                subsets.append(Subset(name, start, len(examples), submission if limit is None else None))
            splits[split] = SplitExamples(examples, subsets, sources[0].source)
        return splits

    def _encode(self, split: str, read: SplitExamples[Example]) -> Encoded:
        """Check the examples of a split that is read after the object is built, and make its sequences."""
        raise NotImplementedError

    def add_to_training(self, examples: Sequence[Example]) -> None:
        """Add examples to the training split: those of earlier tasks, or texts that a model has labelled.

        They are encoded with the settings of this data, and are samples of an epoch like all others.
        """
        self.splits["train"] = self._with_added(self.splits["train"], examples)

    def _with_added(self, split: Encoded, added: Sequence[Example]) -> Encoded:
        """Return the sequences of a training split and of further examples."""
        mixed = [*split.examples, *added]
        source = split.examples[0].location.partition(":")[0]
        return self._encode("train", SplitExamples(mixed, [Subset("", 0, len(mixed))], source))

    def _read_later(self, split: EvaluationSplit) -> None:
        if type(self)._encode is FineTuningDataModule._encode:
            super()._read_later(split)
        self.splits[split] = self._encode(split, self._read(split)[split])

    @property
    def further_texts(self) -> Sequence[str]:
        """Further texts that sequences hold, such as the pattern of a cloze; a new vocabulary must cover them too."""
        return ()

    def has_split(self, split: str) -> bool:
        """Return whether a split has been read."""
        return split in self.splits

    @property
    def num_training_samples(self) -> int:
        """The number of sequences of the training split."""
        return len(self.splits["train"].lengths)

    @property
    def fingerprints(self) -> dict[str, str]:
        """SHA-256 over the examples of each split."""
        return {name: split.fingerprint for name, split in self.splits.items()}

    def training_batches(self, step: int, plan: TrainingPlan, share: int, num_shares: int) -> list[Batch]:
        """Return the micro-batches of one share of a step, all of sequences of about the same length."""
        split = self.splits["train"]
        _, numbers = length_bucketed(plan.seed, split.lengths, self.batch_size, step, plan.num_steps)
        micro_batches = np.split(numbers, plan.accumulate * num_shares)[share::num_shares]
        return [{**split.training_batch(samples, plan.seed, step), "samples": samples} for samples in micro_batches]

    def num_evaluation_samples(self, split: EvaluationSplit) -> int:
        """Return the number of sequences of a split, 0 if there is no such split."""
        return len(self.splits[split].lengths) if split in self.splits else 0

    def evaluation_batch(self, split: EvaluationSplit, numbers: NDArray[np.int64]) -> Batch:
        """Return sequences of a split, numbered here by their rank in length, so that there is little padding."""
        encoded = self.splits[split]
        return encoded.batch(encoded.by_length[numbers])

    def encoded_split(self, split: EvaluationSplit) -> Encoded:
        """Return the examples and sequences of a split, which its loader carries for the task."""
        return self.splits[split]

    @property
    def num_examples_to_predict(self) -> int:
        """The number of examples of the test split."""
        return len(self.splits["test"].examples)

    def examples_to_predict(self, start: int, stop: int) -> Encoded:
        """Return examples of the test split with their sequences."""
        return self.splits["test"].part(np.arange(start, stop))


def sort_labels(labels: Iterable[str]) -> list[str]:
    """Return the distinct labels in a fixed order: by value if all are numbers, by name otherwise.

    >>> sort_labels(["10", "9", "10"])
    ['9', '10']
    >>> sort_labels(["neutral", "10", "9"])
    ['10', '9', 'neutral']
    """
    distinct = sorted(set(labels))
    try:
        values = {label: float(label) for label in distinct}
    except ValueError:
        return distinct
    return sorted(distinct, key=values.__getitem__) if all(map(math.isfinite, values.values())) else distinct
