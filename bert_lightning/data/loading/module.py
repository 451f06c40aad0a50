"""The base of all DataModules: training by steps, evaluation by fixed batches, both distributed over processes."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from lightning import LightningDataModule
from numpy.typing import NDArray

from bert_lightning.data.loading.batching import Batch
from bert_lightning.data.loading.loader import StepLoader
from bert_lightning.distributed.collectives import data_rank
from bert_lightning.errors import InputError
from bert_lightning.text.wordpiece import WordPieceTokenizer

Stage = Literal["validation", "test"]


@dataclass(frozen=True)
class TrainingPlan:
    """How training is cut into steps and micro-batches.

    Attributes:
        num_steps: optimiser steps of the whole training.
        accumulate: micro-batches per step in each process (gradient accumulation).
        seed: seed of all random choices in the data.
    """

    num_steps: int
    accumulate: int
    seed: int


def used_splits(settings: object, stage: Stage | None) -> dict[str, str]:
    """Return the paths of the splits that are used, by split: of `stage`, or of training and validation for None.

    Raises:
        InputError: the split is not set.
    """
    splits = ("train", "validation") if stage is None else (stage,)
    if getattr(settings, splits[0]) is None:
        raise InputError(f"data.{splits[0]} is not set: name it with --data.{splits[0]} PATH")
    return {split: path for split in splits if (path := getattr(settings, split)) is not None}


class StepDataModule(LightningDataModule):
    """The base of all DataModules, which serves the micro-batches of whole optimiser steps.

    An item of the training loader is the list of this process's micro-batches of one step. The samples of a step
    depend only on the plan and the batch size. The numbers of processes and micro-batches only distribute them.

    Attributes:
        tokenizer: text to ids.
        batch_size: samples of one optimiser step, over all processes and micro-batches.
        evaluation_batch_size: samples of one batch in validation and test.
        num_workers: processes that prefetch batches.
        plan: set before training.
    """

    def __init__(
        self, tokenizer: WordPieceTokenizer, batch_size: int, evaluation_batch_size: int, num_workers: int
    ) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        self.evaluation_batch_size = evaluation_batch_size
        self.num_workers = num_workers
        self.plan: TrainingPlan | None = None

    @property
    @abstractmethod
    def num_training_samples(self) -> int:
        """The number of samples of one epoch."""

    @property
    @abstractmethod
    def fingerprints(self) -> dict[str, str]:
        """A digest of each split, which changes if the data does."""

    @abstractmethod
    def training_batches(self, step: int, plan: TrainingPlan, rank: int, world_size: int) -> list[Batch]:
        """Return the micro-batches of a step for one share of the batch.

        The samples of the step depend neither on the share nor on the number of shares.

        Args:
            step: the optimiser step, from 0.
            plan: how training is cut into steps.
            rank: the number of the share.
            world_size: the number of shares.
        """

    @property
    def batch_shares(self) -> Sequence[tuple[str, int, int | None]]:
        """Each batch size of the training: its configuration key, its value, and its number of micro-batches.

        The number is None if it is that of the plan.
        """
        return [("data.batch_size", self.batch_size, None)]

    def num_steps_of(self, max_epochs: float) -> int:
        """Return the number of steps of some epochs: int(samples / batch size * epochs), as published."""
        return int(self.num_training_samples / self.batch_size * max_epochs)

    @abstractmethod
    def num_evaluation_samples(self, stage: Stage) -> int:
        """Return the number of samples of a split; 0 if there is no such split."""

    @abstractmethod
    def evaluation_batch(self, stage: Stage, numbers: NDArray[np.int64]) -> Batch:
        """Make a batch of the samples of a split that have these numbers."""

    def train_dataloader(self) -> StepLoader[list[Batch]]:
        """Return a loader whose items are this process's micro-batches of one step."""
        assert self.plan is not None
        rank, world_size = self._rank()
        self.check_shares(world_size)

        def make(step: int) -> list[Batch]:
            # Read late, because the number of micro-batches may be found after the loader was made.
            assert self.plan is not None
            return self.training_batches(step, self.plan, rank, world_size)

        return StepLoader(make, self.plan.num_steps, self.num_workers, torch.cuda.is_available())

    def check_shares(self, world_size: int) -> None:
        """Check that all micro-batches of a step can have the same size.

        Raises:
            InputError: a batch size is no multiple of shares times micro-batches per share.
        """
        assert self.plan is not None
        for key, size, accumulate in self.batch_shares:
            per_share = accumulate or self.plan.accumulate
            if size % (per_share * world_size):
                raise InputError(
                    f"{key} is {size}; it must be a multiple of {per_share * world_size}, which is {world_size} "
                    f"process(es) times trainer.accumulate_grad_batches {per_share}"
                )

    def val_dataloader(self) -> StepLoader[Batch] | list[Batch]:
        return self._evaluation_loader("validation")

    def test_dataloader(self) -> StepLoader[Batch] | list[Batch]:
        return self._evaluation_loader("test")

    def _evaluation_loader(self, stage: Stage) -> StepLoader[Batch] | list[Batch]:
        total = self.num_evaluation_samples(stage)
        if not total:
            return []
        rank, world_size = self._rank()
        # All processes have the same number of batches, and no sample comes twice; so the last batches may be empty.
        num_batches = -(-total // (self.evaluation_batch_size * world_size))

        def make(number: int) -> Batch:
            start = (number * world_size + rank) * self.evaluation_batch_size
            return self.evaluation_batch(
                stage, np.arange(min(start, total), min(start + self.evaluation_batch_size, total))
            )

        return StepLoader(make, num_batches, self.num_workers, torch.cuda.is_available(), "batch")

    def _rank(self) -> tuple[int, int]:
        trainer = self.trainer
        return data_rank(trainer) if trainer is not None else (0, 1)
