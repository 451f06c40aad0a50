"""Pre-training: masked language modelling alone, or with a sentence objective such as next-sentence prediction."""

import math
from collections.abc import Sequence, Sized
from typing import Any

import torch
import torch.nn.functional as F
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor

from bert_lightning.data.loading.batching import Batch
from bert_lightning.data.loading.encoding import encode_texts, text_batch
from bert_lightning.data.pretraining.objectives import OBJECTIVES, ObjectiveName
from bert_lightning.data.reading.tables import Row, column
from bert_lightning.distributed.collectives import data_rank, sum_over_shares
from bert_lightning.errors import InputError
from bert_lightning.metrics.unigram import UnigramBaseline
from bert_lightning.model import BertConfig, BertForMaskedLM, BertForPreTraining
from bert_lightning.model.layers.token_loss import TokenLoss
from bert_lightning.tasks.distributions import Distribution, one_of
from bert_lightning.tasks.explained import Explained
from bert_lightning.tasks.fine_tuning.report import rounded
from bert_lightning.tasks.inference import evaluating
from bert_lightning.tasks.pretraining.explained import explained_masks
from bert_lightning.tasks.step import numbers_on
from bert_lightning.tasks.task import Optimization, Task
from bert_lightning.tasks.trainer_checks import limiting_flag
from bert_lightning.text.wordpiece import MASK, WordPieceTokenizer

NUM_CANDIDATES = 5


class PretrainingTask(Task):
    """Pre-training with the sum of two losses, as in `run_pretraining.py: model_fn_builder`.

    The loss is the mean over masked tokens plus the mean over sentence pairs.

    Validation also logs baselines: `val/mlm_unigram_loss` and `val/mlm_unigram_accuracy` predict by the frequencies
    of the training text, `val/nsp_majority_accuracy` always predicts the more frequent label.

    Args:
        model: model with both heads, or with the masked-language-model head alone if there are no pairs.
        config: architecture of the model.
        tokenizer: turns text into ids.
        max_seq_length: longest sequence, special tokens included.
        token_counts: (V,) counts of the tokens in the training text, for the baseline.
        objective: how sentences are used. It decides the names of the metrics: `nsp_...`, `sop_...`, or none.
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
        self.progress_scores = [(f"train/{head}_accuracy", head, ".1%") for head in heads]
        self._evaluation_sums: Tensor | None = None
        self.baseline = UnigramBaseline(token_counts) if token_counts is not None else None

    @property
    def task_settings(self) -> dict[str, object]:
        """The longest sequence, the token counts of the baseline, and the objective."""
        return {
            "max_seq_length": self.max_seq_length,
            "token_counts": self.token_counts,
            "objective": self.objective,
        }

    def compile_whole(self) -> None:
        """Compile the model's `losses`, which training and validation call, and `forward`, as distillation does."""
        model: Any = self.model
        model.compile(dynamic=True)
        model.losses = torch.compile(model.losses, dynamic=True)

    def counts(self, batch: Batch) -> Tensor:
        """Return (K,): the numbers of masked tokens and of pairs, for the losses and again for the accuracies."""
        numbers = [len(batch["masked_labels"])]
        if self.sentence_metric:
            numbers.append(len(batch["sentence_labels"]))
        return torch.tensor(numbers * 2)

    def num_scored(self, batch: Batch) -> int:
        """Return the number of masked tokens."""
        return len(batch["masked_labels"])

    def sums(self, batch: Batch) -> Tensor:
        """Return (K,): MLM loss, sentence loss, right tokens, right pairs. Without pairs, K is 2."""
        tokens, pairs = self.model.losses(
            batch["input_ids"],
            batch["token_type_ids"],
            batch.get("attention_mask"),
            batch["masked_positions"],
            batch["masked_labels"],
            batch.get("packing"),
        )
        return self._stacked(tokens, pairs, batch)

    def _stacked(self, tokens: TokenLoss, pairs: Tensor | None, batch: Batch) -> Tensor:
        if not self.sentence_metric:
            return torch.stack([tokens.loss, tokens.num_right])
        assert pairs is not None
        labels = batch["sentence_labels"]
        loss = F.cross_entropy(pairs.float(), labels, reduction="sum")
        right = (pairs.detach().argmax(-1) == labels).sum()
        return torch.stack([tokens.loss, loss, tokens.num_right, right])

    @property
    def distribution_names(self) -> Sequence[str]:
        """Both losses."""
        return self.loss_names[: self.num_losses]

    def distribution_counts(self, batch: Batch) -> Tensor:
        """Return the numbers of masked tokens and of pairs."""
        return self.counts(batch)[: self.num_losses]

    def compute(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Return the scores (M, V) of the masked tokens, and those of the pairs (B, 2).

        `sums` does not compute them, because in float32 they take more memory than everything else.
        """
        output = self.model(
            batch["input_ids"],
            batch["token_type_ids"],
            batch.get("attention_mask"),
            batch["masked_positions"],
            batch.get("packing"),
        )
        return (output.prediction_logits, output.seq_relationship_logits) if self.sentence_metric else (output, None)

    def sums_of(self, computed: tuple[Tensor, Tensor | None], batch: Batch) -> Tensor:
        """Return (K,) the sums, as `sums` does."""
        (scores, pairs), labels = computed, batch["masked_labels"]
        loss = F.cross_entropy(scores.float(), labels, reduction="sum")
        return self._stacked(TokenLoss(loss, (scores.detach().argmax(-1) == labels).sum()), pairs, batch)

    def distributions(self, computed: tuple[Tensor, Tensor | None], batch: Batch) -> list[Distribution]:
        """Return the probabilities of the vocabulary at the masked tokens, and of the order of the pairs."""
        scores, pairs = computed
        return [one_of(each) for each in (scores, pairs) if each is not None]

    def validation_step(self, batch: Batch, number: int) -> None:
        """Add up the sums. A batch may be empty, because all processes get the same number of batches."""
        if not batch["num_tokens"]:
            return
        sums, counts = self.sums(batch).detach().float(), numbers_on(self.device, self.counts(batch).tolist())
        weighted = torch.where(counts > 0, sums / counts * counts, 0)
        added = torch.stack([weighted, counts])
        if self.sentence_metric:
            labels = batch["sentence_labels"]
            first = torch.stack([(labels == 0).sum().float(), torch.full((), float(len(labels)), device=self.device)])
            added = torch.cat([added, first[:, None]], 1)
        self._evaluation_sums = added if self._evaluation_sums is None else self._evaluation_sums + added
        if self.baseline is not None:
            self.baseline.update(batch["masked_labels"])

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        self._log_split("val")

    def on_test_epoch_end(self) -> None:
        self._log_split("test")

    def _evaluation_means(self) -> dict[str, Tensor]:
        """Return the mean of each training sum over the split, and the share of pairs with the first label.

        They are added up on the device, so that no batch waits for it. All processes call this.
        """
        names = [*self.loss_names, *(["first_label"] if self.sentence_metric else [])]
        sums = self._evaluation_sums
        # A process without a batch must also take part in the sum.
        seen = torch.zeros(2, len(names), device=self.device) if sums is None else sums
        total = sum_over_shares(seen, data_rank(self.trainer).num_shares)
        return dict(zip(names, total[0] / total[1], strict=True))

    def _log_split(self, prefix: str) -> None:
        """Log the means over the split, and the baselines."""
        if self.trainer.sanity_checking:
            self._reset_evaluation()
            return
        self._warn_of_part(prefix)
        means = self._evaluation_means()
        values = {f"{prefix}/{name}": means[name] for name in self.loss_names}
        if self.sentence_metric:
            share = means["first_label"]
            values[f"{prefix}/{self.sentence_metric}_majority_accuracy"] = torch.maximum(share, 1 - share)
        if self.baseline is not None:
            for name, value in self.baseline.compute().items():
                values[f"{prefix}/mlm_unigram_{name}"] = value.float()
        self._reset_evaluation()
        self.log_split(values)

    def _warn_of_part(self, prefix: str) -> None:
        trainer = self.trainer
        loaders, used = trainer.val_dataloaders, trainer.num_val_batches
        if trainer.testing:
            loaders, used = trainer.test_dataloaders, trainer.num_test_batches
        total = len(loaders) if isinstance(loaders, Sized) else math.inf
        if sum(used) < total:
            self.warn_once(
                f"{prefix}/* are means over {sum(used)} of {total} batches, because of "
                f"Trainer({limiting_flag(trainer)})"
            )

    def _reset_evaluation(self) -> None:
        if self.baseline is not None:
            self.baseline.reset()
        self._evaluation_sums = None

    def predict_rows(self, rows: list[Row], batch_size: int) -> list[dict[str, object]]:
        """Return the five likeliest word pieces for each [MASK] of a text, with their probabilities.

        Probabilities sum to 1 over the entries of the vocabulary. The model's embedding table may be larger. Batches
        hold texts of about the same length.

        Raises:
            InputError: a row has no text or no [MASK], or a [MASK] is beyond the longest sequence.
        """
        texts = [_text_with_mask(row) for row in rows]
        sequences, _ = encode_texts(self.tokenizer, texts, None, self.max_seq_length)
        for row, text, sequence in zip(rows, texts, sequences, strict=True):
            self._check_masks_fit(row, text, sequence)
        order = sorted(range(len(rows)), key=lambda number: len(sequences[number]))
        masks: dict[int, object] = {}
        for start in range(0, len(rows), batch_size):
            numbers = order[start : start + batch_size]
            batch = text_batch(self.tokenizer, [sequences[n] for n in numbers], None, self.max_seq_length)
            masks.update(zip(numbers, self._candidates(batch), strict=True))
        return [{"text": text, "masks": masks[number]} for number, text in enumerate(texts)]

    def explained(self, row: Row, target: str | None) -> list[Explained]:
        """Return the score of an entry of the vocabulary for each [MASK], by default of the likeliest one."""
        text = _text_with_mask(row)
        [sequence], _ = encode_texts(self.tokenizer, [text], None, self.max_seq_length)
        self._check_masks_fit(row, text, sequence)
        return explained_masks(self, row.location, text, sequence, target)

    def _check_masks_fit(self, row: Row, text: str, sequence: list[int]) -> None:
        count, num_read = text.count(MASK), sequence.count(self.tokenizer.mask_id)
        if num_read < count:
            raise InputError(
                f"{row.location}: {count - num_read} of {count} {MASK} are beyond the "
                f"{self.max_seq_length} tokens that the model reads: shorten the text"
            )

    def _candidates(self, batch: Batch) -> list[list[list[dict[str, object]]]]:
        """Return, for each sequence and each of its masks, the likeliest entries with their probabilities."""
        ids = batch["input_ids"]
        entry_ids = torch.tensor(self.tokenizer.entry_ids)
        numbers, columns = (ids == self.tokenizer.mask_id).nonzero(as_tuple=True)
        inputs = ids, batch["token_type_ids"], batch["attention_mask"], numbers * ids.shape[1] + columns
        with evaluating(self):
            output = self.model(*move_data_to_device(inputs, self.device))
        logits = output.prediction_logits if self.sentence_metric else output
        probabilities, indices = logits[:, entry_ids].float().softmax(-1).topk(NUM_CANDIDATES)
        tokens = entry_ids[indices.cpu()]
        candidates: list[list[list[dict[str, object]]]] = [[] for _ in range(len(ids))]
        for number, best, values in zip(numbers.tolist(), tokens.tolist(), probabilities.tolist(), strict=True):
            candidates[number].append(
                [
                    {"token": self.tokenizer.entries[token], "probability": rounded(value)}
                    for token, value in zip(best, values, strict=True)
                ]
            )
        return candidates


def _text_with_mask(row: Row) -> str:
    text = column(row, "text")
    if MASK not in text:
        raise InputError(f"{row.location}: the text has no {MASK} for the model to fill in")
    return text
