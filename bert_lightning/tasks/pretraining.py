"""Masked language modelling and next-sentence prediction, as published."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MeanMetric

from bert_lightning.data.batching import Batch
from bert_lightning.data.sentence_pairs import IS_NEXT
from bert_lightning.data.sources import Row, column
from bert_lightning.data.text_classification import encode_texts, text_batch
from bert_lightning.errors import InputError
from bert_lightning.metrics.unigram import UnigramBaseline
from bert_lightning.model import BertConfig, BertForPreTraining
from bert_lightning.tasks.base import Task
from bert_lightning.text.wordpiece import MASK, WordPieceTokenizer

NUM_CANDIDATES = 5


class PretrainingTask(Task):
    """Loss: mean over masked tokens plus mean over pairs, unweighted; `run_pretraining.py: model_fn_builder`.

    Validation also logs what guessing reaches: `val/mlm_unigram_loss`, `val/mlm_unigram_accuracy` (frequencies of
    the training text) and `val/nsp_majority_accuracy`.
    """

    name = "pretraining"
    monitor: ClassVar[str] = "val/mlm_loss"
    monitor_mode: ClassVar[str] = "min"
    shown: ClassVar[Sequence[tuple[str, str, str]]] = (
        ("train/loss", "loss", ".3f"),
        ("train/mlm_accuracy", "mlm", ".1%"),
        ("train/nsp_accuracy", "nsp", ".1%"),
        ("train/tokens_per_second", "tok/s", ",.0f"),
    )
    loss_names: ClassVar[Sequence[str]] = ("mlm_loss", "nsp_loss", "mlm_accuracy", "nsp_accuracy")
    validation_metrics: ClassVar[Sequence[str]] = loss_names
    num_losses: ClassVar[int] = 2
    model: BertForPreTraining

    def __init__(
        self,
        model: BertForPreTraining,
        config: BertConfig,
        tokenizer: WordPieceTokenizer,
        max_seq_length: int,
        token_counts: Tensor | None = None,
    ) -> None:
        super().__init__(model, config, tokenizer)
        self.max_seq_length = max_seq_length
        self.token_counts = token_counts
        self.means = torch.nn.ModuleDict({name: MeanMetric() for name in (*self.loss_names, "is_next")})
        self.baseline = UnigramBaseline(token_counts) if token_counts is not None else None

    @property
    def task_settings(self) -> dict[str, Any]:
        """The longest input, and the token counts behind the baseline."""
        return {"max_seq_length": self.max_seq_length, "token_counts": self.token_counts}

    def counts(self, batch: Batch) -> Tensor:
        """Masked tokens and pairs, each twice: for the losses and the accuracies."""
        num_masked, num_pairs = len(batch["masked_labels"]), len(batch["next_sentence_labels"])
        return torch.tensor([num_masked, num_pairs] * 2)

    def sums(self, batch: Batch) -> Tensor:
        """MLM loss, NSP loss, masked tokens right, pairs right."""
        output = self.model(
            batch["input_ids"], batch["token_type_ids"], batch["attention_mask"], batch["masked_positions"]
        )
        tokens, pairs = output.prediction_logits, output.seq_relationship_logits
        token_labels, pair_labels = batch["masked_labels"], batch["next_sentence_labels"]
        return torch.stack(
            [
                F.cross_entropy(tokens.float(), token_labels, reduction="sum"),
                F.cross_entropy(pairs.float(), pair_labels, reduction="sum"),
                (tokens.detach().argmax(-1) == token_labels).sum(),
                (pairs.detach().argmax(-1) == pair_labels).sum(),
            ]
        )

    def validation_step(self, batch: Batch, number: int) -> None:
        """Gather sums; an empty batch only keeps ranks in step."""
        if not len(batch["next_sentence_labels"]):
            return
        sums, counts = self.sums(batch), self.counts(batch)
        for name, total, count in zip(self.loss_names, sums, counts, strict=True):
            self._mean(name).update((total / count).float(), float(count))
        self._mean("is_next").update((batch["next_sentence_labels"] == IS_NEXT).float())
        if self.baseline is not None:
            self.baseline.update(batch["masked_labels"])

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        """Log the means over the whole split."""
        self._log_split("val")

    def on_test_epoch_end(self) -> None:
        """Log the means over the whole split."""
        self._log_split("test")

    def _mean(self, name: str) -> MeanMetric:
        metric = self.means[name]
        assert isinstance(metric, MeanMetric)
        return metric

    def _log_split(self, prefix: str) -> None:
        values = {f"{prefix}/{name}": self._mean(name).compute() for name in self.loss_names}
        is_next = self._mean("is_next").compute()
        values[f"{prefix}/nsp_majority_accuracy"] = torch.maximum(is_next, 1 - is_next)
        if self.baseline is not None:
            for name, value in self.baseline.compute().items():
                values[f"{prefix}/mlm_unigram_{name}"] = value.float()
            self.baseline.reset()
        for metric in self.means.values():
            assert isinstance(metric, MeanMetric)
            metric.reset()
        self.log_split(values)

    def predict_rows(self, rows: list[Row], batch_size: int) -> list[dict[str, Any]]:
        """Fill in each [MASK] of a text: the five likeliest word pieces with their probabilities.

        Raises:
            InputError: a row without text or without [MASK].
        """
        results = []
        for start in range(0, len(rows), batch_size):
            texts = [_text_with_mask(row) for row in rows[start : start + batch_size]]
            firsts, _ = encode_texts(self.tokenizer, texts, None, self.max_seq_length)
            batch = text_batch(self.tokenizer, firsts, None, self.max_seq_length)
            rows_at, columns_at = (batch["input_ids"] == self.tokenizer.mask_id).nonzero(as_tuple=True)
            positions = rows_at * batch["input_ids"].shape[1] + columns_at
            logits = self.model(
                batch["input_ids"], batch["token_type_ids"], batch["attention_mask"], positions
            ).prediction_logits
            probabilities, ids = logits.float().softmax(-1).topk(NUM_CANDIDATES)
            filled: list[list[Any]] = [[] for _ in texts]
            for row, values, tokens in zip(rows_at.tolist(), probabilities.tolist(), ids.tolist(), strict=True):
                filled[row].append(
                    [
                        {"token": self.tokenizer.entries[token], "probability": round(value, 6)}
                        for token, value in zip(tokens, values, strict=True)
                    ]
                )
            results += [{"text": text, "masks": masks} for text, masks in zip(texts, filled, strict=True)]
        return results


def _text_with_mask(row: Row) -> str:
    text = column(row, "text")
    if MASK not in text:
        raise InputError(f"{row.place}: no {MASK} in the text: a pre-trained model fills these in")
    return text
