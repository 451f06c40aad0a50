"""Single texts or pairs into one of several classes."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score, MulticlassMatthewsCorrCoef

from bert_lightning.data.batching import Batch
from bert_lightning.data.sources import Row, column
from bert_lightning.data.text_classification import encode_texts, text_batch
from bert_lightning.model import BertConfig, BertForSequenceClassification
from bert_lightning.tasks.base import Task
from bert_lightning.text.wordpiece import WordPieceTokenizer


class TextClassificationTask(Task):
    """Cross-entropy on the pooled [CLS]; `run_classifier.py`.

    Logs accuracy, macro F1 and Matthews correlation of whole splits.

    Attributes:
        labels: label names in id order.
        predictions: after a test, (row number, gold id, predicted id, probability) of each row, in order.
    """

    name = "text-classification"
    monitor: ClassVar[str] = "val/accuracy"
    monitor_mode: ClassVar[str] = "max"
    shown: Sequence[tuple[str, str, str]] = (
        ("train/loss", "loss", ".3f"),
        ("train/accuracy", "accuracy", ".1%"),
        ("train/tokens_per_second", "tok/s", ",.0f"),
    )
    loss_names: Sequence[str] = ("loss", "accuracy")
    validation_metrics: Sequence[str] = ("loss", "accuracy", "macro_f1", "matthews")
    num_losses: int = 1
    model: BertForSequenceClassification

    def __init__(
        self,
        model: BertForSequenceClassification,
        config: BertConfig,
        tokenizer: WordPieceTokenizer,
        labels: Sequence[str],
        max_seq_length: int,
        text_column: str,
        text_pair_column: str | None,
        column_names: list[str] | None = None,
    ) -> None:
        super().__init__(model, config, tokenizer)
        self.labels = list(labels)
        self.max_seq_length = max_seq_length
        self.text_column, self.text_pair_column = text_column, text_pair_column
        self.column_names = column_names
        num = len(self.labels)
        self.scores = MetricCollection(
            {
                "accuracy": MulticlassAccuracy(num, average="micro"),
                "macro_f1": MulticlassF1Score(num, average="macro"),
                "matthews": MulticlassMatthewsCorrCoef(num),
            }
        )
        self.mean_loss = MeanMetric()
        self.predictions: list[tuple[int, int, int, float]] = []

    @property
    def task_settings(self) -> dict[str, Any]:
        """Labels, length and columns."""
        return {
            "labels": self.labels,
            "max_seq_length": self.max_seq_length,
            "text_column": self.text_column,
            "text_pair_column": self.text_pair_column,
            "column_names": self.column_names,
        }

    def counts(self, batch: Batch) -> Tensor:
        """Texts, for the loss and the accuracy."""
        return torch.tensor([len(batch["labels"])] * 2)

    def sums(self, batch: Batch) -> Tensor:
        """Loss, texts right."""
        logits, labels = self._logits(batch), batch["labels"]
        loss = F.cross_entropy(logits, labels, reduction="sum")
        return torch.stack([loss, (logits.detach().argmax(-1) == labels).sum()])

    def _logits(self, batch: Batch) -> Tensor:
        return self.model(batch["input_ids"], batch["token_type_ids"], batch["attention_mask"]).float()

    def validation_step(self, batch: Batch, number: int) -> Tensor | None:
        """Gather scores; an empty batch only keeps ranks in step."""
        labels = batch["labels"]
        if not len(labels):
            return None
        logits = self._logits(batch)
        self.scores.update(logits, labels)
        self.mean_loss.update(F.cross_entropy(logits, labels), len(labels))
        return logits

    def test_step(self, batch: Batch, number: int) -> None:
        """Gather scores and predictions."""
        logits = self.validation_step(batch, number)
        if logits is not None:
            best = logits.softmax(-1).max(-1)
            columns = (batch["numbers"], batch["labels"], best.indices, best.values)
            self.predictions += zip(*(column.tolist() for column in columns), strict=True)

    def on_validation_epoch_end(self) -> None:
        """Log the scores of the whole split."""
        self._log_split("val")

    def on_test_epoch_end(self) -> None:
        """Log the scores of the whole split and gather the predictions of all ranks."""
        self._log_split("test")
        if self.trainer.world_size > 1:
            parts: list[Any] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(parts, self.predictions)
            self.predictions = [row for part in parts for row in part]
        self.predictions.sort()

    def _log_split(self, prefix: str) -> None:
        values = {f"{prefix}/loss": self.mean_loss.compute()}
        values |= {f"{prefix}/{name}": value.float() for name, value in self.scores.compute().items()}
        self.mean_loss.reset()
        self.scores.reset()
        self.log_split(values)

    def predict_rows(self, rows: list[Row], batch_size: int) -> list[dict[str, Any]]:
        """The likeliest label of each text, and the probability of every label.

        Rows are batched by length and given back in their order.

        Raises:
            InputError: a row lacks the text column, or the second one for a model of pairs.
        """
        texts = [column(row, self.text_column) for row in rows]
        pair_column = self.text_pair_column
        pairs = [column(row, pair_column) for row in rows] if pair_column else None
        firsts, seconds = encode_texts(self.tokenizer, texts, pairs, self.max_seq_length)
        order = sorted(range(len(rows)), key=lambda number: len(firsts[number]))
        results: list[dict[str, Any]] = [{} for _ in rows]
        for start in range(0, len(rows), batch_size):
            numbers = order[start : start + batch_size]
            batch_seconds = [seconds[n] for n in numbers] if seconds is not None else None
            batch = text_batch(self.tokenizer, [firsts[n] for n in numbers], batch_seconds, self.max_seq_length)
            for number, row in zip(numbers, self._logits(batch).softmax(-1).tolist(), strict=True):
                given = {self.text_column: texts[number]}
                if pairs is not None and pair_column:
                    given[pair_column] = pairs[number]
                best = max(range(len(row)), key=row.__getitem__)
                probabilities = {label: round(p, 6) for label, p in zip(self.labels, row, strict=True)}
                results[number] = {**given, "label": self.labels[best], "probabilities": probabilities}
        return results
