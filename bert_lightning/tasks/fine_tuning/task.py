"""The base of all fine-tuning tasks: one output per sequence, each split scored as a whole."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import torch
from lightning import LightningDataModule
from lightning.fabric.utilities import move_data_to_device
from numpy.typing import NDArray
from torch import Tensor

from bert_lightning.data.loading.batching import Batch
from bert_lightning.data.reading.tables import Row
from bert_lightning.distributed.collectives import data_rank, gather_objects, sum_over_shares
from bert_lightning.model import BertConfig
from bert_lightning.model.pretrained import PretrainedModel
from bert_lightning.tasks.fine_tuning.data import FineTuningDataModule
from bert_lightning.tasks.fine_tuning.report import Evaluation, Output, Report
from bert_lightning.tasks.fine_tuning.settings import FineTuningData
from bert_lightning.tasks.fine_tuning.splits import AnyExample, EncodedSplit, Subset
from bert_lightning.tasks.task import Optimization, Task
from bert_lightning.text.wordpiece import WordPieceTokenizer

Split = TypeVar("Split", bound=EncodedSplit)
Computed = TypeVar("Computed")
"""The model's output for a batch."""
Logits = NDArray[np.float32]
"""(L,) the scores of one sequence."""


class FineTuningTask(Task, Generic[Split, Output, Computed]):
    """A task that turns examples into sequences. The model gives one output for each sequence.

    An output is a plain value, such as the logits of a text. The outputs of all processes are collected, and a split
    is scored once over all of its examples. So the scores do not depend on the number of processes or the batch size.

    Attributes:
        settings: how examples become sequences.
        evaluation: the split that was evaluated last, with its outputs.
    """

    num_losses: int = 1
    label_name: ClassVar[str] = "labels"
    """The entry of a batch without which there is no loss."""
    line_columns: Sequence[str] = ("text",)
    """Columns of a line of raw input, separated by tabs. A line is not split if there is only one."""
    settings: FineTuningData

    def __init__(
        self,
        model: PretrainedModel,
        config: BertConfig,
        tokenizer: WordPieceTokenizer,
        settings: FineTuningData,
        *,
        optimization: Optimization | None = None,
    ) -> None:
        super().__init__(model, config, tokenizer, optimization=optimization)
        self.settings = settings
        self.evaluation: Evaluation[Split, Output] | None = None
        self._outputs: dict[int, Output] = {}
        self._evaluation_sums: Tensor | None = None

    # -- for subclasses to implement -----------------------------------------------------------------------------

    @abstractmethod
    def compute(self, batch: Batch) -> Computed:
        """Return the model's output for a batch, in float32."""

    @abstractmethod
    def sums_of(self, computed: Computed, batch: Batch) -> Tensor:
        """Return (K,) each training sum of one micro-batch."""

    @abstractmethod
    def outputs_of(self, computed: Computed, batch: Batch) -> list[Output]:
        """Return one plain value for each sequence of a batch."""

    @abstractmethod
    def scores(self, split: Split, outputs: list[Output], subset: Subset) -> dict[str, float]:
        """Return the scores of a subset of a labelled split by name, equal to those of the official scorer."""

    @abstractmethod
    def predictions(self, split: Split, outputs: list[Output]) -> list[dict[str, object]]:
        """Return one prediction per example as plain values, with the gold label if there is one."""

    @abstractmethod
    def report(self, split: Split, outputs: list[Output]) -> Report:
        """Return a report about a labelled split."""

    @abstractmethod
    def example_of(self, row: Row) -> AnyExample:
        """Turn a row of raw input into an example.

        Raises:
            InputError: it lacks what the model needs; the message names its location.
        """

    @abstractmethod
    def encode(self, examples: list[Any]) -> Split:
        """Turn examples into sequences, for prediction."""

    def files(self, split: Split, outputs: list[Output]) -> dict[str, str]:
        """Return prediction files in the formats of official scorers: name -> content."""
        return {}

    def read_raw(self, source: str) -> Iterator[Row] | None:
        """Read a file in a format that only this task has. Return None for any other file."""
        return None

    @property
    def task_settings(self) -> dict[str, object]:
        """How examples become sequences."""
        return {"data": asdict(self.settings.for_prediction())}

    # -- training and evaluation ---------------------------------------------------------------------------------

    def sums(self, batch: Batch) -> Tensor:
        return self.sums_of(self.compute(batch), batch)

    def validation_step(self, batch: Batch, number: int) -> None:
        """Collect the outputs. A batch may be empty, because all processes get the same number of batches."""
        if not len(batch["numbers"]):
            return
        computed = self.compute(batch)
        if self.label_name in batch:
            sums, counts = self.sums_of(computed, batch), self.counts(batch).to(self.device)
            added = torch.stack([sums[: self.num_losses].double(), counts[: self.num_losses].double()])
            self._evaluation_sums = added if self._evaluation_sums is None else self._evaluation_sums + added
        self._outputs.update(zip(batch["numbers"].tolist(), self.outputs_of(computed, batch), strict=True))

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        self._finish("validation", "val")

    def on_test_epoch_end(self) -> None:
        self._finish("test", "test")

    def _finish(self, split_name: str, prefix: str) -> None:
        """Collect the outputs of all processes, and log the scores of the whole split."""
        split = self._split(split_name)
        evaluation = Evaluation(split, self._gathered(len(split.lengths)))
        self.evaluation = evaluation
        values: dict[str, float] = {}
        if split.is_labelled:
            values |= self._evaluation_losses()
            for subset in split.subsets:
                scores = self.scores(split, evaluation.outputs, subset)
                values |= {f"{subset.prefix}{name}": value for name, value in scores.items()}
        self.log_split(
            {f"{prefix}/{name}": torch.tensor(value, dtype=torch.float64) for name, value in values.items()}
        )

    def _split(self, name: str) -> Split:
        data: LightningDataModule | None = self.trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, FineTuningDataModule)
        split: Split = data.splits[name]
        return split

    def _gathered(self, num_sequences: int) -> list[Output]:
        """Return the outputs of all processes in the order of the sequences."""
        outputs, self._outputs = self._outputs, {}
        if self.trainer.world_size > 1:
            outputs = {number: output for share in gather_objects(outputs) for number, output in share.items()}
        assert len(outputs) == num_sequences, f"{len(outputs)} outputs for {num_sequences} sequences"
        return [outputs[number] for number in range(num_sequences)]

    def _evaluation_losses(self) -> dict[str, float]:
        sums, self._evaluation_sums = self._evaluation_sums, None
        if self.trainer.world_size > 1:
            # A process without examples must also take part in the sum.
            sums = (
                sums if sums is not None else torch.zeros(2, self.num_losses, dtype=torch.float64, device=self.device)
            )
            sums = sum_over_shares(sums, data_rank(self.trainer).num_shares)
        if sums is None or not sums[1].any():
            return {}
        means = (sums[0] / sums[1].clamp(min=1e-12)).tolist()
        return dict(zip(self.loss_names[: self.num_losses], means, strict=True))

    # -- prediction ----------------------------------------------------------------------------------------------

    def predict_rows(self, rows: list[Row], batch_size: int) -> list[dict[str, object]]:
        """Predict from raw input: one prediction per row. Batches hold sequences of about the same length.

        Raises:
            InputError: a row lacks what the model needs; the message names its location.
        """
        if not rows:
            return []
        split = self.encode([self.example_of(row) for row in rows])
        return self.predictions(split, self.outputs_for(split, batch_size))

    def outputs_for(self, split: Split, batch_size: int) -> list[Output]:
        """Return the output of every sequence, in order."""
        outputs: dict[int, Output] = {}
        for start in range(0, len(split.lengths), batch_size):
            numbers = split.by_length[start : start + batch_size]
            batch = move_data_to_device(split.batch(numbers), self.device)
            outputs.update(zip(numbers.tolist(), self.outputs_of(self.compute(batch), batch), strict=True))
        return [outputs[number] for number in range(len(split.lengths))]
