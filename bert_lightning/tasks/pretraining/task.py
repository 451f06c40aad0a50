"""Masked language modelling, with next-sentence prediction as published, another objective, or alone."""

from typing import Any

import torch
import torch.nn.functional as F
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor
from torchmetrics import MeanMetric

from bert_lightning.data.loading.batching import Batch
from bert_lightning.data.loading.encoding import encode_texts, text_batch
from bert_lightning.data.pretraining.objectives import OBJECTIVES, ObjectiveName
from bert_lightning.data.reading.tables import Row, column
from bert_lightning.errors import InputError
from bert_lightning.metrics.unigram import UnigramBaseline
from bert_lightning.model import BertConfig, BertForMaskedLM, BertForPreTraining
from bert_lightning.tasks.task import Optimization, Task
from bert_lightning.text.wordpiece import MASK, WordPieceTokenizer

NUM_CANDIDATES = 5


class PretrainingTask(Task):
    """Loss: mean over masked tokens plus mean over pairs, unweighted; `run_pretraining.py: model_fn_builder`.

    Validation also logs what guessing reaches: `val/mlm_unigram_loss`, `val/mlm_unigram_accuracy` (frequencies of
    the training text) and `val/nsp_majority_accuracy`.

    Args:
        model: with both heads, or the masked-language-model head alone where there are no pairs.
        config: of the model.
        tokenizer: text to ids.
        max_seq_length: longest input.
        token_counts: (V,) of the training text, for the baseline.
        objective: what sentences are for; decides the names of the metrics: `nsp_...`, `sop_...`, or none.
    """

    name = "pretraining"
    monitor = "val/mlm_loss"
    monitor_mode = "min"
    model: BertForPreTraining | BertForMaskedLM
    model_methods = ("losses",)

    def __init__(
        self,
        model: BertForPreTraining | BertForMaskedLM,
        config: BertConfig,
        tokenizer: WordPieceTokenizer,
        max_seq_length: int,
        token_counts: Tensor | None = None,
        objective: ObjectiveName = "next-sentence",
        *,
        optimization: Optimization | None = None,
    ) -> None:
        super().__init__(model, config, tokenizer, optimization=optimization)
        self.max_seq_length = max_seq_length
        self.token_counts = token_counts
        self.objective: ObjectiveName = objective
        self.sentence_metric = OBJECTIVES[objective].metric
        heads = ["mlm", *([self.sentence_metric] if self.sentence_metric else [])]
        self.num_losses = len(heads)
        self.loss_names = [f"{head}_{value}" for value in ("loss", "accuracy") for head in heads]
        self.validation_metrics = self.loss_names
        self.shown = (
            ("train/loss", "loss", ".3f"),
            *((f"train/{head}_accuracy", head, ".1%") for head in heads),
            ("train/tokens_per_second", "tok/s", ",.0f"),
            ("train/mfu", "MFU", ".0%"),
        )
        self.means = torch.nn.ModuleDict({name: MeanMetric() for name in (*self.loss_names, "first_label")})
        self.baseline = UnigramBaseline(token_counts) if token_counts is not None else None

    @property
    def task_settings(self) -> dict[str, Any]:
        """The longest input, the token counts behind the baseline, and the objective."""
        return {
            "max_seq_length": self.max_seq_length,
            "token_counts": self.token_counts,
            "objective": self.objective,
        }

    def compile_whole(self) -> None:
        """Compile the model's losses, which is what training and validation call."""
        model: Any = self.model
        model.losses = torch.compile(model.losses, dynamic=True)

    def counts(self, batch: Batch) -> Tensor:
        """Masked tokens and pairs, each twice: for the losses and the accuracies."""
        numbers = [len(batch["masked_labels"])]
        if self.sentence_metric:
            numbers.append(len(batch["sentence_labels"]))
        return torch.tensor(numbers * 2)

    def num_scored(self, batch: Batch) -> int:
        """Masked tokens."""
        return len(batch["masked_labels"])

    def sums(self, batch: Batch) -> Tensor:
        """MLM loss, sentence loss, masked tokens right, pairs right; nothing of pairs where there are none."""
        tokens, pairs = self.model.losses(
            batch["input_ids"],
            batch["token_type_ids"],
            batch.get("attention_mask"),
            batch["masked_positions"],
            batch["masked_labels"],
            batch.get("packing"),
        )
        if not self.sentence_metric:
            return torch.stack([tokens.loss, tokens.num_right])
        assert pairs is not None
        labels = batch["sentence_labels"]
        loss = F.cross_entropy(pairs.float(), labels, reduction="sum")
        right = (pairs.detach().argmax(-1) == labels).sum()
        return torch.stack([tokens.loss, loss, tokens.num_right, right])

    def validation_step(self, batch: Batch, number: int) -> None:
        """Gather sums; an empty batch only keeps ranks in step."""
        if not batch["num_tokens"]:
            return
        sums, counts = self.sums(batch), self.counts(batch)
        for name, total, count in zip(self.loss_names, sums, counts, strict=True):
            if count:
                self._mean(name).update((total / count).float(), float(count))
        if self.sentence_metric:
            self._mean("first_label").update((batch["sentence_labels"] == 0).float())
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
        if self.sentence_metric:
            share = self._mean("first_label").compute()
            values[f"{prefix}/{self.sentence_metric}_majority_accuracy"] = torch.maximum(share, 1 - share)
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

        Probabilities sum to 1 over the entries of the vocabulary, since a model may have more rows than entries.

        Raises:
            InputError: a row without text or without [MASK], or with one that a sequence has no room for.
        """
        results = []
        entry_ids = torch.tensor(self.tokenizer.entry_ids)
        for start in range(0, len(rows), batch_size):
            block = rows[start : start + batch_size]
            texts = [_text_with_mask(row) for row in block]
            firsts, _ = encode_texts(self.tokenizer, texts, None, self.max_seq_length)
            for row, text, first in zip(block, texts, firsts, strict=True):
                count, num_read = text.count(MASK), first.count(self.tokenizer.mask_id)
                if num_read < count:
                    raise InputError(
                        f"{row.location}: {count - num_read} of {count} {MASK} stand beyond the "
                        f"{self.max_seq_length} tokens that the model reads: shorten the text"
                    )
            batch = text_batch(self.tokenizer, firsts, None, self.max_seq_length)
            rows_at, columns_at = (batch["input_ids"] == self.tokenizer.mask_id).nonzero(as_tuple=True)
            positions = rows_at * batch["input_ids"].shape[1] + columns_at
            inputs = batch["input_ids"], batch["token_type_ids"], batch["attention_mask"], positions
            output = self.model(*move_data_to_device(inputs, self.device))
            logits = output.prediction_logits if self.sentence_metric else output
            probabilities, places = logits[:, entry_ids].float().softmax(-1).topk(NUM_CANDIDATES)
            ids = entry_ids[places.cpu()]
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
        raise InputError(f"{row.location}: no {MASK} in the text: a pre-trained model fills these in")
    return text
