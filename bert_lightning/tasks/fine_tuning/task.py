"""The base of all fine-tuning tasks: one output per sequence, each split scored as a whole."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from itertools import islice
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import torch
from lightning.fabric.utilities import move_data_to_device
from numpy.typing import NDArray
from torch import Tensor

from bert_lightning.data.loading.batching import Batch
from bert_lightning.data.reading.tables import Row
from bert_lightning.distributed.collectives import data_rank, gather_objects, sum_over_shares
from bert_lightning.errors import InputError
from bert_lightning.model import BertConfig
from bert_lightning.model.losses import CrossEntropy, Loss
from bert_lightning.model.pretrained import PretrainedModel
from bert_lightning.tasks.fine_tuning.outputs import Outputs
from bert_lightning.tasks.fine_tuning.report import Evaluation, Output, Report
from bert_lightning.tasks.fine_tuning.settings import FineTuningData
from bert_lightning.tasks.fine_tuning.splits import AnyExample, EncodedSplit, Subset
from bert_lightning.tasks.inference import PREDICTION_BATCH_SIZE, evaluating
from bert_lightning.tasks.task import Optimization, Task
from bert_lightning.tasks.trainer_checks import limiting_flag
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
        loss: the loss of a counted item, in training and evaluation.
    """

    num_losses: int = 1
    label_name: ClassVar[str] = "labels"
    """The entry of a batch without which there is no loss."""
    loss: Loss = CrossEntropy()
    loss_obstacle: str | None = "this task has a loss of its own"
    """Why only the default loss can be used; None if any can."""
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
        self._outputs: Outputs[Output] = Outputs(self.outputs_of)
        self._evaluation_sums: Tensor | None = None

    # -- for subclasses to implement -----------------------------------------------------------------------------

    @abstractmethod
    def compute(self, batch: Batch) -> Computed:
        """Return the model's output for a batch, in float32."""

    @abstractmethod
    def sums_of(self, computed: Computed, batch: Batch) -> Tensor:
        """Return (K,) each training sum of one micro-batch."""

    def calibrated(self, computed: Computed) -> Computed:
        """Return what scores and predictions are made of: the model's output, unless a task adjusts it.

        It is called right after `compute`, on the device. Losses use the output of `compute` itself.
        """
        return computed

    @abstractmethod
    def outputs_of(self, computed: Computed, batch: Batch) -> list[Output]:
        """Return one plain value for each sequence of a batch.

        The tensors may have been copied to the host, and other batches computed since. So it must not use the model.
        """

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
        if not len(batch["input_ids"]):
            return
        computed = self.compute(batch)
        if self.label_name in batch:
            sums, counts = self.sums_of(computed, batch), self.counts(batch).to(self.device)
            added = torch.stack([sums.double(), counts.double()])
            self._evaluation_sums = added if self._evaluation_sums is None else self._evaluation_sums + added
        if self._split() is not None:
            self._outputs.add(self.calibrated(computed), batch)

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        self._finish("val")

    def on_test_epoch_end(self) -> None:
        self._finish("test")

    def _finish(self, prefix: str) -> None:
        """Collect the outputs of all processes, and log the scores of the whole split, or of the part that was seen.

        Raises:
            InputError: there is nothing to score.
        """
        if self.trainer.sanity_checking:
            self._outputs.take()
            self._evaluation_sums = None
            return
        whole = self._split()
        values: dict[str, float] = {}
        if whole is None:
            values = self._means_of_batches(prefix)
        else:
            split, outputs = self._seen(whole, self._gathered(), prefix)
            self.evaluation = Evaluation(split, outputs)
            means = self._evaluation_means()
            if split.is_labelled:
                values |= dict(islice(means.items(), self.num_losses))
                for subset, part in zip(whole.subsets, split.subsets, strict=True):
                    if part.start < part.stop:
                        scores = self.scores(split, outputs, part)
                        values |= {f"{subset.prefix}{name}": value for name, value in scores.items()}
        self.log_split(
            {f"{prefix}/{name}": torch.tensor(value, dtype=torch.float64) for name, value in values.items()}
        )

    def _split(self) -> Split | None:
        """Return the split that is evaluated, or None if the loader is a custom one."""
        loaders = self.trainer.test_dataloaders if self.trainer.testing else self.trainer.val_dataloaders
        [loader] = loaders if isinstance(loaders, list) and len(loaders) == 1 else [loaders]
        split: Split | None = getattr(loader, "split", None)
        return split

    def _means_of_batches(self, prefix: str) -> dict[str, float]:
        """Return what batches alone tell: the means of the training sums.

        Raises:
            InputError: the batches have no labels.
        """
        means = self._evaluation_means()
        needed = f"pass the data module, or its own {prefix}_dataloader()"
        if not means:
            raise InputError(
                f"the batches of this loader have no {self.label_name!r}, so nothing is scored: {needed}"
            )
        self.warn_once(
            f"{prefix}/* are means over the batches of your loader; the scores of a whole split are not among them: "
            f"{needed}"
        )
        return means

    def _seen(self, split: Split, outputs: dict[int, Output], prefix: str) -> tuple[Split, list[Output]]:
        """Return the part of a split that was seen, which usually is all of it, and its outputs in order.

        Raises:
            InputError: no example was seen with all of its sequences, or a sequence was not seen although no flag of
                the Trainer limits the evaluation.
        """
        num_sequences = len(split.lengths)
        if len(outputs) == num_sequences:
            return split, [outputs[number] for number in range(num_sequences)]
        flag = limiting_flag(self.trainer)
        if flag is None:
            raise InputError(
                f"{prefix}: the loader returned {len(outputs)} of {num_sequences} sequences, so the split cannot be "
                f"scored: pass the data module, or its own {prefix}_dataloader()"
            )
        unseen = set(split.owners[[number for number in range(num_sequences) if number not in outputs]].tolist())
        numbers = np.array([n for n in range(len(split.examples)) if n not in unseen], dtype=np.int64)
        if not len(numbers):
            raise InputError(
                f"Trainer({flag}) leaves no example with all of its sequences, so nothing can be scored: raise it, "
                "or set limit_val_batches=0 to skip validation"
            )
        self.warn_once(
            f"{prefix}/* are scores of the {len(numbers)} shortest of {len(split.examples)} examples, because of "
            f"Trainer({flag})"
        )
        return split.part(numbers), [outputs[number] for number in split.sequences_of(numbers).tolist()]

    def _gathered(self) -> dict[int, Output]:
        """Return the output of each sequence that any process has seen."""
        outputs = self._outputs.take()
        if self.trainer.world_size > 1:
            outputs = {number: output for share in gather_objects(outputs) for number, output in share.items()}
        return outputs

    def _evaluation_means(self) -> dict[str, float]:
        """Return the mean of each training sum over the sequences that any process has seen, losses first."""
        sums, self._evaluation_sums = self._evaluation_sums, None
        if self.trainer.world_size > 1:
            # A process without examples must also take part in the sum.
            empty = torch.zeros(2, len(self.loss_names), dtype=torch.float64, device=self.device)
            sums = sum_over_shares(sums if sums is not None else empty, data_rank(self.trainer).num_shares)
        if sums is None or not sums[1].any():
            return {}
        means = (sums[0] / sums[1].clamp(min=1e-12)).tolist()
        return dict(zip(self.loss_names, means, strict=True))

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

    def compute_batch(self, batch: Mapping[str, Any]) -> Computed:
        """Return the output of `compute`."""
        return self.compute(batch)  # type: ignore[arg-type]

    def predict_step(self, batch: Any, batch_idx: int) -> list[dict[str, object]]:
        """Return the predictions for examples of the test split, or for raw inputs, as `predict_rows` does."""
        if not isinstance(batch, EncodedSplit):
            return super().predict_step(batch, batch_idx)
        split: Any = batch
        predictions = (
            self.predictions(split, self.outputs_for(split, PREDICTION_BATCH_SIZE)) if split.examples else []
        )
        return [{name: value for name, value in row.items() if name != "gold"} for row in predictions]

    def outputs_for(self, split: Split, batch_size: int) -> list[Output]:
        """Return the output of every sequence, in order."""
        outputs: Outputs[Output] = Outputs(self.outputs_of)
        with evaluating(self):
            for start in range(0, len(split.lengths), batch_size):
                batch = split.batch(split.by_length[start : start + batch_size])
                moved = move_data_to_device(batch, self.device)
                outputs.add(self.calibrated(self.compute(moved)), moved)
        by_number = outputs.take()
        return [by_number[number] for number in range(len(split.lengths))]
