"""The DataModule under every task: training by steps, evaluation by fixed batches, both split over ranks."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from lightning import LightningDataModule
from numpy.typing import NDArray

from bert_lightning.data.loading.batching import Batch
from bert_lightning.data.loading.loader import StepLoader
from bert_lightning.distributed.tensor_parallel import data_rank
from bert_lightning.errors import InputError
from bert_lightning.text.wordpiece import WordPieceTokenizer

EvaluationSplit = Literal["validation", "test"]


@dataclass(frozen=True)
class TrainingLength:
    """The length of a training as the user gives it: in steps or in epochs.

    Attributes:
        max_steps: optimiser steps; or
        max_epochs: passes over the training samples.
        accumulate: micro-batches that each rank computes per step.
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
    """How the samples of training are cut into steps.

    Attributes:
        num_steps: optimiser steps of the whole training.
        accumulate: micro-batches that each rank computes one after the other in a step.
        seed: of everything random in the data.
    """

    num_steps: int
    accumulate: int
    seed: int


def used_splits(settings: Any, split: str | None) -> dict[str, str]:
    """Return split -> path: of the one split that is scored, or of training and validation if that is None.

    Raises:
        InputError: the split is not set.
    """
    wanted = ("train", "validation") if split is None else (split,)
    if getattr(settings, wanted[0]) is None:
        raise InputError(f"data.{wanted[0]} is not set: name it with --data.{wanted[0]} PATH")
    return {name: path for name in wanted if (path := getattr(settings, name)) is not None}


class StepDataModule(LightningDataModule):
    """Serves micro-batches of whole optimiser steps.

    An item of the training loader is the list of this rank's micro-batches of one step. The samples of a step
    depend on the plan and the global batch size alone: ranks and accumulation only share them out.

    Attributes:
        tokenizer: text to ids.
        batch_size: samples of one optimiser step, over all ranks and micro-batches.
        evaluation_batch_size: samples of one batch in validation and test.
        num_workers: processes that make batches ahead.
        length: length of the training. None if the data only scores a model.
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
        self._micro_batches: int | None = None

    @property
    def plan(self) -> TrainingPlan:
        """How the samples of training are cut into steps.

        Raises:
            InputError: the epochs are less than one step.
        """
        assert self.length is not None, "this data was built without a length, to score a model"
        return TrainingPlan(self._num_steps, self._micro_batches or self.length.accumulate, self.length.seed)

    @cached_property
    def _num_steps(self) -> int:
        assert self.length is not None
        if self.length.max_steps is not None:
            return self.length.max_steps
        assert self.length.max_epochs is not None
        steps = self.num_steps_of(self.length.max_epochs)
        if steps < 1:
            raise InputError(
                f"trainer.max_epochs {self.length.max_epochs:g} of {self.num_training_samples} samples are less than "
                f"one batch of {self.batch_size}: lower data.batch_size"
            )
        return steps

    def use_micro_batches(self, number: int) -> None:
        """Compute each step in this many micro-batches per rank, whatever `length` says."""
        self._micro_batches = number

    @property
    @abstractmethod
    def num_training_samples(self) -> int:
        """Samples of one epoch."""

    @property
    @abstractmethod
    def fingerprints(self) -> dict[str, str]:
        """What the data was, by split: it changes when the data does."""

    @abstractmethod
    def training_batches(self, step: int, plan: TrainingPlan, rank: int, world_size: int) -> list[Batch]:
        """One rank's micro-batches of a step; what the step holds depends on neither rank nor number of ranks."""

    @property
    def batch_shares(self) -> Sequence[tuple[str, int, int | None]]:
        """Each batch size of the training: its key, its value, and the micro-batches where not the plan's."""
        return [("data.batch_size", self.batch_size, None)]

    def num_steps_of(self, max_epochs: float) -> int:
        """Steps of so many epochs: int(samples / batch size * epochs), as published."""
        return int(self.num_training_samples / self.batch_size * max_epochs)

    @abstractmethod
    def num_evaluation_samples(self, split: EvaluationSplit) -> int:
        """Samples of a split; 0 where there is none."""

    @abstractmethod
    def evaluation_batch(self, split: EvaluationSplit, numbers: NDArray[np.int64]) -> Batch:
        """Samples of a split, by their number, to tensors."""

    def train_dataloader(self) -> StepLoader[list[Batch]]:
        """Items: this rank's micro-batches of one optimiser step."""
        rank, world_size = self._rank()
        self.check_shares(world_size)

        def make(step: int) -> list[Batch]:
            # Read the plan now: `use_micro_batches` may have been called after the loader was made.
            return self.training_batches(step, self.plan, rank, world_size)

        return StepLoader(make, self.plan.num_steps, self.num_workers, torch.cuda.is_available())

    def check_shares(self, world_size: int) -> None:
        """Check that a step's samples can be shared out evenly.

        Raises:
            InputError: the batch size is no multiple of ranks times micro-batches.
        """
        plan = self.plan
        for key, size, accumulate in self.batch_shares:
            num_parts = (accumulate or plan.accumulate) * world_size
            if size % num_parts:
                raise InputError(
                    f"{key} {size} cannot be shared out over {world_size} process(es) times "
                    f"trainer.accumulate_grad_batches {accumulate or plan.accumulate}: "
                    f"it must be a multiple of {num_parts}"
                )

    def val_dataloader(self) -> StepLoader[Batch] | list[Any]:
        """Fixed batches of the validation split."""
        return self._evaluation_loader("validation")

    def test_dataloader(self) -> StepLoader[Batch] | list[Any]:
        """Fixed batches of the test split."""
        return self._evaluation_loader("test")

    def _evaluation_loader(self, split: EvaluationSplit) -> StepLoader[Batch] | list[Any]:
        total = self.num_evaluation_samples(split)
        if not total:
            return []
        rank, world_size = self._rank()
        # Every rank gets equally many batches and no sample twice; the last batches may be empty.
        num_batches = -(-total // (self.evaluation_batch_size * world_size))

        def make(number: int) -> Batch:
            start = (number * world_size + rank) * self.evaluation_batch_size
            return self.evaluation_batch(
                split, np.arange(min(start, total), min(start + self.evaluation_batch_size, total))
            )

        return StepLoader(make, num_batches, self.num_workers, torch.cuda.is_available(), "batch")

    def _rank(self) -> tuple[int, int]:
        trainer = self.trainer
        return data_rank(trainer) if trainer is not None else (0, 1)
