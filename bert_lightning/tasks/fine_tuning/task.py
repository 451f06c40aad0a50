"""What fine-tuning tasks share: splits scored as a whole from an output a feature, and raw input predicted so too."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

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
from bert_lightning.tasks.fine_tuning.data import EncodedSplit, FineTuningData, FineTuningDataModule, Part
from bert_lightning.tasks.task import Task
from bert_lightning.text.wordpiece import WordPieceTokenizer


@dataclass(frozen=True)
class Report:
    """What a person reads of an evaluation.

    Attributes:
        text: tables for a terminal.
        tables: name -> columns and rows.
        confusion: labels and (L, L) counts, gold by predicted, where there are classes.
    """

    text: str
    tables: dict[str, tuple[Sequence[str], Sequence[Sequence[Any]]]] = field(default_factory=dict)
    confusion: tuple[Sequence[str], NDArray[np.int64]] | None = None


@dataclass(frozen=True)
class Evaluation:
    """A split and the output for each of its features."""

    split: EncodedSplit
    outputs: list[Any]


class FineTuningTask(Task):
    """A task whose examples have features, and whose features have outputs.

    An output is a plain value, such as the logits of a text. Those of all ranks are put together, so a split is
    scored once over all of its examples, whatever the number of ranks and the size of batches.

    Attributes:
        settings: how examples become features.
        evaluation: the last split that was gone through.
    """

    num_losses: int = 1
    label_name: ClassVar[str] = "labels"
    """The entry of a batch without which there is no loss."""
    line_columns: Sequence[str] = ("text",)
    """What the parts of a line of raw input are, between tabs; with one column the line is not split."""

    def __init__(
        self, model: PretrainedModel, config: BertConfig, tokenizer: WordPieceTokenizer, settings: FineTuningData
    ) -> None:
        super().__init__(model, config, tokenizer)
        self.settings: Any = settings
        self.evaluation: Evaluation | None = None
        self._outputs: dict[int, Any] = {}
        self._evaluation_sums: Tensor | None = None

    # -- what a task says of itself ------------------------------------------------------------------------------

    @abstractmethod
    def compute(self, batch: Batch) -> Any:
        """What the model makes of a batch, in float32."""

    @abstractmethod
    def sums_of(self, computed: Any, batch: Batch) -> Tensor:
        """(K,) each training sum of one micro-batch."""

    @abstractmethod
    def outputs_of(self, computed: Any, batch: Batch) -> list[Any]:
        """One plain value for each feature of a batch."""

    @abstractmethod
    def scores(self, split: EncodedSplit, outputs: list[Any], part: Part) -> dict[str, float]:
        """The scores of a part of a labelled split by name, equal to the official scorer's."""

    @abstractmethod
    def predictions(self, split: EncodedSplit, outputs: list[Any]) -> list[dict[str, Any]]:
        """One prediction for each example, as plain values; with the gold label where there is one."""

    @abstractmethod
    def report(self, split: EncodedSplit, outputs: list[Any]) -> Report:
        """What a person reads of a labelled split."""

    @abstractmethod
    def example_of(self, row: Row) -> Any:
        """Raw input as an example.

        Raises:
            InputError: it lacks what the model needs; the message names its location.
        """

    @abstractmethod
    def encode(self, examples: list[Any]) -> EncodedSplit:
        """Examples to features, for prediction."""

    def files(self, split: EncodedSplit, outputs: list[Any]) -> dict[str, str]:
        """Prediction files in the forms of others, by name."""
        return {}

    def read_raw(self, source: str) -> Iterator[Row] | None:
        """Rows of a file in a format of the task's own; None for any other file."""
        return None

    @property
    def task_settings(self) -> dict[str, Any]:
        """How examples become features."""
        return {"data": asdict(self.settings.for_prediction())}

    # -- training and evaluation ---------------------------------------------------------------------------------

    def sums(self, batch: Batch) -> Tensor:
        """(K,) each training sum of one micro-batch."""
        return self.sums_of(self.compute(batch), batch)

    def validation_step(self, batch: Batch, number: int) -> None:
        """Gather outputs; an empty batch only keeps ranks in step."""
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
        """Log the scores of the whole split."""
        self._finish("validation", "val")

    def on_test_epoch_end(self) -> None:
        """Log the scores of the whole split."""
        self._finish("test", "test")

    def _finish(self, split_name: str, prefix: str) -> None:
        split = self._split(split_name)
        evaluation = Evaluation(split, self._gathered(len(split.lengths)))
        self.evaluation = evaluation
        values: dict[str, float] = {}
        if split.is_labelled:
            values |= self._evaluation_losses()
            for part in split.parts:
                scores = self.scores(split, evaluation.outputs, part)
                values |= {f"{part.prefix}{name}": value for name, value in scores.items()}
        self.log_split(
            {f"{prefix}/{name}": torch.tensor(value, dtype=torch.float64) for name, value in values.items()}
        )

    def _split(self, name: str) -> EncodedSplit:
        data: LightningDataModule | None = self.trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, FineTuningDataModule)
        return data.splits[name]

    def _gathered(self, num_features: int) -> list[Any]:
        """The outputs of all ranks in the order of the features."""
        outputs, self._outputs = self._outputs, {}
        if self.trainer.world_size > 1:
            outputs = {number: output for share in gather_objects(outputs) for number, output in share.items()}
        assert len(outputs) == num_features, f"{len(outputs)} outputs for {num_features} features"
        return [outputs[number] for number in range(num_features)]

    def _evaluation_losses(self) -> dict[str, float]:
        sums, self._evaluation_sums = self._evaluation_sums, None
        if self.trainer.world_size > 1:
            # A rank without examples takes part too.
            sums = (
                sums if sums is not None else torch.zeros(2, self.num_losses, dtype=torch.float64, device=self.device)
            )
            sums = sum_over_shares(sums, data_rank(self.trainer).num_shares)
        if sums is None or not sums[1].any():
            return {}
        means = (sums[0] / sums[1].clamp(min=1e-12)).tolist()
        return dict(zip(self.loss_names[: self.num_losses], means, strict=True))

    # -- prediction ----------------------------------------------------------------------------------------------

    def predict_rows(self, rows: list[Row], batch_size: int) -> list[dict[str, Any]]:
        """Raw input to predictions, one a row, batched by length.

        Raises:
            InputError: a row lacks what the model needs; the message names its location.
        """
        if not rows:
            return []
        split = self.encode([self.example_of(row) for row in rows])
        return self.predictions(split, self.outputs_for(split, batch_size))

    def outputs_for(self, split: EncodedSplit, batch_size: int) -> list[Any]:
        """The output of every feature."""
        outputs: dict[int, Any] = {}
        for start in range(0, len(split.lengths), batch_size):
            features = split.by_length[start : start + batch_size]
            batch = move_data_to_device(split.batch(features), self.device)
            outputs.update(zip(features.tolist(), self.outputs_of(self.compute(batch), batch), strict=True))
        return [outputs[number] for number in range(len(split.lengths))]


def rounded(value: float) -> float:
    """A probability or score as it is written."""
    return round(float(value), 6)
