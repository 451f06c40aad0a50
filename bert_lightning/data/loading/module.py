"""The base of all DataModules: training by steps, evaluation by fixed batches, both distributed over processes."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from lightning import LightningDataModule
from lightning.pytorch.accelerators import CUDAAccelerator
from numpy.typing import NDArray

from bert_lightning.data.loading.batching import Batch
from bert_lightning.data.loading.loader import StepLoader
from bert_lightning.distributed.collectives import DataRank, data_rank
from bert_lightning.errors import InputError
from bert_lightning.text.wordpiece import WordPieceTokenizer

EvaluationSplit = Literal["validation", "test"]


@dataclass(frozen=True)
class TrainingLength:
    """The length of a training as the user gives it: in steps or in epochs.

    Attributes:
        max_steps: optimiser steps; None if the length is given in epochs.
        max_epochs: passes over the training samples; None if the length is given in steps.
        accumulate: micro-batches per step for each share of the batch.
        seed: seed of everything random in the data.
    """

    max_steps: int | None = None
    max_epochs: float | None = None
    accumulate: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.max_steps is None) == (self.max_epochs is None):
            raise ValueError("max_steps or max_epochs must be set, and not both")


@dataclass(frozen=True)
class TrainingPlan:
    """The division of training into steps and micro-batches.

    Attributes:
        num_steps: optimiser steps of the whole training.
        accumulate: micro-batches per step in each process (gradient accumulation).
        seed: seed of all random choices in the data.
    """

    num_steps: int
    accumulate: int
    seed: int


class NumberedInput(NamedTuple):
    """A raw input with its number from 0, by which errors name it."""

    number: int
    item: object


def used_splits(settings: object, split: str | None) -> dict[str, str]:
    """Return split -> path for the split that is scored, or for training and validation if `split` is None.

    Raises:
        InputError: the split is not set.
    """
    splits = ("train", "validation") if split is None else (split,)
    if getattr(settings, splits[0]) is None:
        raise InputError(f"data.{splits[0]} is not set: name it with --data.{splits[0]} PATH")
    return {name: path for name in splits if (path := getattr(settings, name)) is not None}


class StepDataModule(LightningDataModule):
    """The base of all DataModules, which serves the micro-batches of whole optimiser steps.

    An item of the training loader is the list of this process's micro-batches of one step. The samples of a step
    depend only on the plan and the batch size. The numbers of processes and micro-batches only distribute them.

    Attributes:
        tokenizer: the tokenizer of the model.
        batch_size: samples of one optimiser step, over all processes and micro-batches.
        evaluation_batch_size: samples per micro-batch in validation and test.
        num_workers: processes that prefetch micro-batches.
        length: length of the training. None if the data only scores a model.
        inputs: raw inputs for `trainer.predict`, as `bert_lightning.load(...).predict` takes them; None for the test
            split.
    """

    def __init__(
        self,
        tokenizer: WordPieceTokenizer,
        batch_size: int,
        evaluation_batch_size: int,
        num_workers: int,
        length: TrainingLength | None = None,
    ) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        self.evaluation_batch_size = evaluation_batch_size
        self.num_workers = num_workers
        self.length = length
        self.inputs: Sequence[object] | None = None
        self._micro_batches: int | None = None

    @property
    def plan(self) -> TrainingPlan:
        """The current division of training into steps and micro-batches.

        Raises:
            InputError: the epochs hold less than one batch, or the data was built without a length.
        """
        length = self._given_length
        return TrainingPlan(self._num_steps, self._micro_batches or length.accumulate, length.seed)

    @property
    def _given_length(self) -> TrainingLength:
        if self.length is None:
            raise InputError(
                "this data module was built without a length, to score: to train on it, build it with "
                "length=TrainingLength(max_steps=...) or TrainingLength(max_epochs=...)"
            )
        return self.length

    @cached_property
    def _num_steps(self) -> int:
        length = self._given_length
        if length.max_steps is not None:
            return length.max_steps
        assert length.max_epochs is not None, "a length has one of the two"
        steps = self.num_steps_of(length.max_epochs)
        if steps < 1:
            raise InputError(
                f"trainer.max_epochs {length.max_epochs:g} of {self.num_training_samples} samples are less than "
                f"one batch of {self.batch_size}: lower data.batch_size"
            )
        return steps

    def use_micro_batches(self, number: int) -> None:
        """Compute each step in this many micro-batches per share, instead of those of `length`."""
        self._micro_batches = number

    # -- hooks of Lightning --------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Read the split that a stage needs, unless it has been read; Lightning calls this in every process.

        Training and validation data is read when the object is built, because the labels and the number of steps
        come from it. So this reads the test split, and the validation split of data that was built to test.

        Raises:
            InputError: the split is not set, or the data was built to score but is used to train.
        """
        if stage == "fit" and not self.has_split("train"):
            raise InputError("this data module was built to score a split: build it without `split` to train on it")
        if stage in ("validate", "test") or (stage == "predict" and self.inputs is None):
            self.read_once("validation" if stage == "validate" else "test")

    def read_once(self, split: EvaluationSplit) -> None:
        """Read a split unless it has been read.

        Raises:
            InputError: the split is not set.
        """
        if not self.has_split(split):
            self._read_later(split)

    @abstractmethod
    def has_split(self, split: str) -> bool:
        """Return whether a split has been read."""

    def _read_later(self, split: EvaluationSplit) -> None:
        """Read a split after the object is built, for the same labels."""
        raise InputError(
            f"{type(self).__name__} reads {split} data only when it is built: build it with split={split!r}"
        )

    @property
    @abstractmethod
    def num_training_samples(self) -> int:
        """The number of samples of one epoch."""

    @property
    @abstractmethod
    def fingerprints(self) -> dict[str, str]:
        """A digest of each split, which changes if the data does."""

    @abstractmethod
    def training_batches(self, step: int, plan: TrainingPlan, share: int, num_shares: int) -> list[Batch]:
        """Return the micro-batches of a step for one share of the batch.

        The samples of the step depend neither on the share nor on the number of shares.

        Args:
            step: the optimiser step, from 0.
            plan: the division of training into steps.
            share: the number of the share, from 0.
            num_shares: the number of shares.
        """

    @property
    def batch_shares(self) -> Sequence[tuple[str, int, int | None]]:
        """For each batch size of the training: its configuration key, its value, and its number of micro-batches.

        The number is None if the plan's number applies.
        """
        return [("data.batch_size", self.batch_size, None)]

    def num_steps_of(self, max_epochs: float) -> int:
        """Return the number of steps in `max_epochs` epochs: int(samples / batch size * epochs), as published."""
        return int(self.num_training_samples / self.batch_size * max_epochs)

    @abstractmethod
    def num_evaluation_samples(self, split: EvaluationSplit) -> int:
        """Return the number of samples of a split; 0 if there is no such split."""

    @abstractmethod
    def evaluation_batch(self, split: EvaluationSplit, numbers: NDArray[np.int64]) -> Batch:
        """Make a micro-batch of the samples of a split that have these numbers."""

    def train_dataloader(self) -> StepLoader[list[Batch]]:
        """Return a loader whose items are this process's micro-batches of one step."""
        share, num_shares = self._share()
        self.check_shares(num_shares)

        def make(step: int) -> list[Batch]:
            # Read the plan only here: the number of micro-batches may be determined after the loader is made.
            return self.training_batches(step, self.plan, share, num_shares)

        return StepLoader(make, self.plan.num_steps, self.num_workers, self._feeds_gpu, first=self._next_step)

    def _next_step(self) -> int:
        """Return the step that comes next, so that a further Lightning epoch continues the plan."""
        trainer = self.trainer
        if trainer is None or not trainer.training or trainer.overfit_batches:  # type: ignore[attr-defined]
            return 0
        return trainer.global_step if trainer.global_step < self.plan.num_steps else 0

    def check_shares(self, num_shares: int) -> None:
        """Check that all micro-batches of a step can have the same size.

        Raises:
            InputError: a batch size is no multiple of shares times micro-batches per share.
        """
        plan = self.plan
        for key, size, accumulate in self.batch_shares:
            per_share = accumulate or plan.accumulate
            if size % (per_share * num_shares):
                raise InputError(
                    f"{key} is {size}; it must be a multiple of {per_share * num_shares}, which is {num_shares} "
                    f"process(es) times trainer.accumulate_grad_batches {per_share}"
                )

    def val_dataloader(self) -> StepLoader[Batch] | list[Batch]:
        return self._evaluation_loader("validation")

    def test_dataloader(self) -> StepLoader[Batch] | list[Batch]:
        self.read_once("test")
        return self._evaluation_loader("test")

    def predict_dataloader(self) -> StepLoader[object]:
        """Return a loader of `inputs` or of the test split, in order, from which `Task.predict_step` predicts.

        Raises:
            InputError: there are neither inputs nor a test split.
        """
        share, num_shares = self._share()
        size, inputs = self.evaluation_batch_size, self.inputs
        if isinstance(inputs, str | Mapping):
            raise InputError("data.inputs must be a list of inputs, not a single input")
        if inputs is None:
            self.read_once("test")
        total = len(inputs) if inputs is not None else self.num_examples_to_predict

        def make(number: int) -> object:
            start = min((number * num_shares + share) * size, total)
            stop = min(start + size, total)
            if inputs is not None:
                return [NumberedInput(number, inputs[number]) for number in range(start, stop)]
            return self.examples_to_predict(start, stop)

        # No workers: a split would be copied to this process with each batch.
        return StepLoader(make, -(-total // (size * num_shares)), 0, False, "batch")

    @property
    def num_examples_to_predict(self) -> int:
        """The number of examples of the test split that `trainer.predict` predicts.

        Raises:
            InputError: the task predicts from raw inputs alone.
        """
        raise InputError("trainer.predict needs raw inputs for this task: set data.inputs to a list of them")

    def examples_to_predict(self, start: int, stop: int) -> object:
        """Return examples of the test split, in a form that the task's `predict_step` knows."""
        raise NotImplementedError

    def _evaluation_loader(self, split: EvaluationSplit) -> StepLoader[Batch] | list[Batch]:
        total = self.num_evaluation_samples(split)
        if not total:
            return []
        share, num_shares = self._share()
        # All shares have equally many micro-batches, and no sample occurs twice. So the last ones may be empty.
        num_batches = -(-total // (self.evaluation_batch_size * num_shares))

        def make(number: int) -> Batch:
            start = (number * num_shares + share) * self.evaluation_batch_size
            return self.evaluation_batch(
                split, np.arange(min(start, total), min(start + self.evaluation_batch_size, total))
            )

        whole = self.encoded_split(split)
        return StepLoader(make, num_batches, self.num_workers, self._feeds_gpu, "batch", split=whole)

    def encoded_split(self, split: EvaluationSplit) -> object:
        """Return the examples and sequences of a split, if the task scores splits as a whole; otherwise None."""
        return None

    @property
    def _feeds_gpu(self) -> bool:
        """Whether batches go to a GPU. Pinning memory for another device would start CUDA for nothing."""
        return self.trainer is not None and isinstance(self.trainer.accelerator, CUDAAccelerator)

    def _share(self) -> DataRank:
        trainer = self.trainer
        return data_rank(trainer) if trainer is not None else DataRank(0, 1)
