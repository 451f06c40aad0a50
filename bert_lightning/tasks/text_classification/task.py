"""Single texts or pairs: one of several classes, any number of them, or a number."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bert_lightning.data.datasets.examples import LabelledText
from bert_lightning.data.loading.batching import Batch
from bert_lightning.data.reading.tables import Row, column
from bert_lightning.metrics.classification import (
    ClassificationReport,
    classification_report,
    confusion_matrix,
    matthews,
    multi_label_report,
)
from bert_lightning.metrics.correlation import pearson, spearman
from bert_lightning.model import BertConfig, BertForSequenceClassification
from bert_lightning.model.losses import sequence_losses
from bert_lightning.tasks.fine_tuning.data import Part
from bert_lightning.tasks.fine_tuning.one_of_several import softmax
from bert_lightning.tasks.fine_tuning.task import FineTuningTask, Report, rounded
from bert_lightning.tasks.text_classification.data import EncodedTexts, Problem, TextClassificationData
from bert_lightning.text.wordpiece import WordPieceTokenizer

log = logging.getLogger(__name__)

# What validation logs for each problem; the first decides which checkpoint is the best.
_METRICS: dict[Problem, tuple[str, ...]] = {
    "single-label": ("accuracy", "macro_f1", "matthews"),
    "multi-label": ("micro_f1", "macro_f1", "accuracy"),
    "regression": ("pearson", "spearman", "mean_squared_error"),
}

_RESULTS = ("label", "labels", "score", "probabilities", "gold")


class TextClassificationTask(FineTuningTask):
    """One linear layer on the pooled [CLS]; `run_classifier.py`.

    One class: cross-entropy; accuracy, macro F1, Matthews correlation, and with two classes the F1 of one of them.
    Several: binary cross-entropy; micro and macro F1, and as accuracy the share of rows right in every label.
    A number: squared error; Pearson and Spearman correlation and the mean squared error.

    Attributes:
        labels: label names in id order.
        class_weights: (L,) of the loss, or None.
    """

    name = "text-classification"
    model: BertForSequenceClassification

    def __init__(
        self,
        model: BertForSequenceClassification,
        config: BertConfig,
        tokenizer: WordPieceTokenizer,
        settings: TextClassificationData,
        labels: Sequence[str],
        class_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__(model, config, tokenizer, settings)
        self.labels = list(labels)
        self.kind = settings.kind
        self._said_constant = False
        self.class_weights = torch.tensor(class_weights) if class_weights is not None else None
        extra = ("f1",) if self.kind == "single-label" and len(self.labels) == 2 else ()
        names = (*_METRICS[self.kind], *extra)
        standard = settings.standard
        self.monitor = f"val/{standard.monitor if standard is not None and standard.monitor in names else names[0]}"
        self.monitor_mode = "max"
        second = "absolute_error" if self.kind == "regression" else "accuracy"
        self.loss_names = ("loss", second)
        self.validation_metrics = ("loss", *names)
        form = ".3f" if self.kind == "regression" else ".1%"
        self.progress_scores = ((f"train/{second}", second.replace("_", " "), form),)
        self.line_columns = [settings.text_column]
        if settings.is_pair:
            self.line_columns.append(settings.text_pair_column or "text_pair")

    @property
    def task_settings(self) -> dict[str, Any]:
        """Labels, problem type, and how examples become features."""
        weights = self.class_weights.tolist() if self.class_weights is not None else None
        return {
            "labels": self.labels,
            "problem_type": self.model.problem_type,
            "class_weights": weights,
            **super().task_settings,
        }

    def counts(self, batch: Batch) -> Tensor:
        """Texts, weighted for the loss as their classes are."""
        labels = batch["labels"]
        number = torch.tensor(float(len(labels)), device=labels.device)
        weights = self._weights(labels).sum() if self.class_weights is not None else number
        return torch.stack([weights, number])

    def _weights(self, labels: Tensor) -> Tensor:
        assert self.class_weights is not None
        self.class_weights = self.class_weights.to(labels.device)
        return self.class_weights[labels]

    def compute(self, batch: Batch) -> Tensor:
        """(B, L) logits."""
        return self.model(batch["input_ids"], batch["token_type_ids"], batch["attention_mask"]).float()

    def sums_of(self, computed: Tensor, batch: Batch) -> Tensor:
        """Loss, and texts right or the absolute error."""
        labels, guess = batch["labels"], computed.detach()
        losses = sequence_losses(computed, labels, self.model.problem_type)
        if self.class_weights is not None:
            losses = losses * self._weights(labels)
        if self.kind == "regression":
            second = (guess[:, 0] - labels).abs()
        elif self.kind == "multi-label":
            second = ((guess.sigmoid() >= self.settings.threshold) == labels.bool()).all(1).float()
        else:
            second = (guess.argmax(-1) == labels).float()
        return torch.stack([losses.sum(), second.sum()])

    def outputs_of(self, computed: Tensor, batch: Batch) -> list[Any]:
        """(L,) logits of each text."""
        return list(computed.cpu().numpy())

    def scores(self, split: Any, outputs: list[Any], part: Part) -> dict[str, float]:
        """The metrics of the problem; a degenerate one is 0 and said."""
        inside = slice(part.start, part.stop)
        logits, gold = np.stack(outputs[inside]), split.labels[inside]
        if self.kind == "regression":
            guess = logits[:, 0].astype(np.float64)
            scores = {
                "pearson": pearson(guess, gold),
                "spearman": spearman(guess, gold),
                "mean_squared_error": float(np.mean((guess - gold) ** 2)),
            }
            constant = len(np.unique(guess)) == 1
            if len(gold) > 1 and len(np.unique(gold)) == 1 and not self._said_constant:
                self._said_constant = True
                log.warning("every gold number of a split is %g; correlations are counted as 0", gold[0])
        else:
            report = self._report(split, outputs, inside)
            scores = {"accuracy": report.accuracy, "macro_f1": report.macro.f1}
            if self.kind == "multi-label":
                return {**scores, "micro_f1": report.micro.f1}
            scores["matthews"] = matthews(self._confusion(split, outputs, inside))
            constant = len(np.unique(logits.argmax(-1))) == 1
            if len(self.labels) == 2:
                scores["f1"] = report.per_label[self.settings.positive_label or self.labels[1]].f1
        if constant and len(logits) > 1 and not self._said_constant:
            self._said_constant = True
            log.warning("every prediction of a split is the same; correlations are counted as 0")
        return scores

    def _confusion(self, split: Any, outputs: list[Any], inside: slice) -> NDArray[np.int64]:
        return confusion_matrix(split.labels[inside], np.stack(outputs[inside]).argmax(-1), len(self.labels))

    def _report(self, split: Any, outputs: list[Any], inside: slice) -> ClassificationReport:
        if self.kind == "multi-label":
            guess = _sigmoid(np.stack(outputs[inside])) >= self.settings.threshold
            return multi_label_report(split.labels[inside].astype(bool), guess, self.labels)
        return classification_report(self._confusion(split, outputs, inside), self.labels)

    def report(self, split: Any, outputs: list[Any]) -> Report:
        """Scores a class and the confusion matrix; of numbers, the worst."""
        if self.kind != "regression":
            every = slice(None)
            confusion = self._confusion(split, outputs, every) if self.kind == "single-label" else None
            report = self._report(split, outputs, every)
            rows = [[label, *score] for label, score in report.per_label.items()]
            return Report(
                "\n".join(report.lines()),
                {"classes": (["class", "precision", "recall", "f1", "support"], rows)},
                (self.labels, confusion) if confusion is not None else None,
            )
        worst = sorted(
            ((abs(float(output[0]) - float(gold)), float(gold), float(output[0]), example.text)
            for output, gold, example in zip(outputs, split.labels, split.examples, strict=True)),
            reverse=True,
        )[:20]  # fmt: skip
        lines = [f"{'error':>8} {'gold':>8} {'predicted':>10}  text"]
        lines += [f"{error:8.3f} {gold:8.3f} {guess:10.3f}  {text[:70]}" for error, gold, guess, text in worst]
        return Report("\n".join(lines), {"largest errors": (["error", "gold", "predicted", "text"], worst)})

    def predictions(self, split: Any, outputs: list[Any]) -> list[dict[str, Any]]:
        """The text, and the likeliest label with the probability of each, the labels, or the score."""
        rows = []
        # A text column with the name of a result is renamed, or the result would replace its text.
        pairs = zip(self.line_columns, ("text", "text_pair"), strict=False)
        names = [plain if name in _RESULTS else name for name, plain in pairs]
        for number, (example, logits) in enumerate(zip(split.examples, outputs, strict=True)):
            row: dict[str, Any] = dict(zip(names, (example.text, example.text_pair), strict=False))
            if self.kind == "regression":
                row["score"] = rounded(logits[0])
            else:
                multiple = self.kind == "multi-label"
                chances = _sigmoid(logits) if multiple else softmax(logits)
                if multiple:
                    row["labels"] = [
                        label
                        for label, chance in zip(self.labels, chances, strict=True)
                        if chance >= self.settings.threshold
                    ]
                else:
                    row["label"] = self.labels[int(np.argmax(logits))]
                row["probabilities"] = {label: rounded(p) for label, p in zip(self.labels, chances, strict=True)}
            if split.labels is not None:
                gold = split.examples[number].label
                row["gold"] = list(gold) if isinstance(gold, tuple) else gold
            rows.append(row)
        return rows

    def files(self, split: Any, outputs: list[Any]) -> dict[str, str]:
        """`<task>.tsv` of the GLUE submission for each part that has one: `index` and `prediction`."""
        files = {}
        for part in split.parts:
            if part.submission is not None:
                lines = ["index\tprediction"]
                for number in range(part.start, part.stop):
                    logits = outputs[number]
                    guess = f"{logits[0]:.3f}" if self.kind == "regression" else self.labels[int(np.argmax(logits))]
                    lines.append(f"{number - part.start}\t{guess}")
                files[f"{part.submission}.tsv"] = "\n".join(lines) + "\n"
        return files

    def example_of(self, row: Row) -> LabelledText:
        """A row with the text column, and the second one for a model of pairs."""
        texts = [column(row, name) for name in self.line_columns]
        return LabelledText(row.location, texts[0], texts[1] if len(texts) > 1 else None, None, "")

    def encode(self, examples: list[LabelledText]) -> EncodedTexts:
        """Texts to features."""
        return EncodedTexts(examples, self.tokenizer, self.settings, self.labels)


def _sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-np.clip(logits.astype(np.float64), -500, 500)))
