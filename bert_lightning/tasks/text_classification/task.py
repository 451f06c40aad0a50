"""Classification or regression of texts and pairs of texts."""

import logging
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bert_lightning.data.datasets.examples import LabelledText
from bert_lightning.data.loading.batching import Batch
from bert_lightning.data.reading.tables import Row, column
from bert_lightning.errors import InputError
from bert_lightning.metrics.classification import (
    ClassificationReport,
    classification_report,
    confusion_matrix,
    matthews,
    multi_label_report,
)
from bert_lightning.metrics.correlation import pearson, spearman
from bert_lightning.model import BertConfig, BertForSequenceClassification
from bert_lightning.model.losses import CrossEntropy, ProblemType, item_losses, sequence_losses
from bert_lightning.model.pretrained import PretrainedModel
from bert_lightning.tasks.distributions import Distribution, each_of, numbers, one_of
from bert_lightning.tasks.explained import Explained, number_of
from bert_lightning.tasks.fine_tuning.explained import explained_text
from bert_lightning.tasks.fine_tuning.one_of_several import softmax
from bert_lightning.tasks.fine_tuning.report import Report, rounded
from bert_lightning.tasks.fine_tuning.splits import Subset
from bert_lightning.tasks.fine_tuning.task import FineTuningTask, Logits
from bert_lightning.tasks.task import Optimization
from bert_lightning.tasks.text_classification.data import EncodedTexts
from bert_lightning.tasks.text_classification.settings import Problem, TextClassificationData
from bert_lightning.text.wordpiece import WordPieceTokenizer

log = logging.getLogger(__name__)

# Validation metrics of each problem. The first one decides which checkpoint is the best.
_METRICS: dict[Problem, tuple[str, ...]] = {
    "single-label": ("accuracy", "macro_f1", "matthews"),
    "multi-label": ("micro_f1", "macro_f1", "accuracy"),
    "regression": ("pearson", "spearman", "mean_squared_error"),
}
# Keys of a prediction, besides the texts.
_RESULTS = ("label", "labels", "score", "probabilities", "gold")
_NUM_WORST = 20


class TextClassificationTask(FineTuningTask[EncodedTexts, Logits, Tensor]):
    """Classification or regression with one linear layer on the pooled [CLS], as in `run_classifier.py`.

    - single-label: cross-entropy or another `loss`; accuracy, macro F1, Matthews correlation and, for two classes,
      the F1 of one.
    - multi-label: binary cross-entropy; micro and macro F1. Accuracy is the fraction of texts right in every label.
    - regression: squared error; Pearson and Spearman correlation and the mean squared error.

    Attributes:
        labels: label names in the order of their ids.
        class_weights: (L,) weights in the loss, or None.
    """

    name = "text-classification"
    model: BertForSequenceClassification
    settings: TextClassificationData
    class_weights: Tensor | None

    def __init__(
        self,
        model: PretrainedModel,
        config: BertConfig,
        tokenizer: WordPieceTokenizer,
        settings: TextClassificationData,
        labels: Sequence[str],
        class_weights: Sequence[float] | None = None,
        *,
        optimization: Optimization | None = None,
    ) -> None:
        super().__init__(model, config, tokenizer, settings, optimization=optimization)
        self.labels = list(labels)
        self.kind = settings.kind
        self._warned_of_constant = False
        if self.kind == "single-label":
            self.loss_obstacle = None
        else:
            self.loss_obstacle = f"a loss over classes needs single labels, and the data are {self.kind}"
        weights = torch.tensor(class_weights) if class_weights is not None else None
        self.register_buffer("class_weights", weights, persistent=False)
        extra = ("f1",) if self.kind == "single-label" and len(self.labels) == 2 else ()
        names = (*_METRICS[self.kind], *extra)
        standard = settings.standard
        self.monitor = f"val/{standard.monitor if standard is not None and standard.monitor in names else names[0]}"
        self.monitor_mode = "max"
        second = "absolute_error" if self.kind == "regression" else "accuracy"
        self.loss_names = ("loss", second)
        self.validation_metrics = ("loss", *names)
        number_format = ".3f" if self.kind == "regression" else ".1%"
        self.progress_scores = ((f"train/{second}", second.replace("_", " "), number_format),)
        self.line_columns = [settings.text_column]
        if settings.is_pair:
            self.line_columns.append(settings.text_pair_column or "text_pair")

    @property
    def problem_type(self) -> ProblemType:
        """The meaning of the model's outputs."""
        return self.model.problem_type

    @property
    def task_settings(self) -> dict[str, object]:
        """Labels, problem type, and how examples become sequences."""
        weights = self.class_weights.tolist() if self.class_weights is not None else None
        return {
            "labels": self.labels,
            "problem_type": self.problem_type,
            "class_weights": weights,
            **super().task_settings,
        }

    def counts(self, batch: Batch) -> Tensor:
        """Return (2,): the summed class weights, which divide the loss, and the number of texts."""
        labels = batch["labels"]
        number = torch.full((), float(len(labels)), device=labels.device)
        weights = self._weights(labels).sum() if self.class_weights is not None else number
        return torch.stack([weights, number])

    def _weights(self, labels: Tensor) -> Tensor:
        assert self.class_weights is not None
        return self.class_weights.to(labels.device)[labels]

    def compute(self, batch: Batch) -> Tensor:
        """Return (B, L) logits."""
        return self.model(batch["input_ids"], batch["token_type_ids"], batch["attention_mask"]).float()

    def sums_of(self, computed: Tensor, batch: Batch) -> Tensor:
        """Return (2,): the loss, and the number of right texts or the absolute error."""
        labels, guess = batch["labels"], computed.detach()
        if isinstance(self.loss, CrossEntropy):
            losses = sequence_losses(computed, labels, self.problem_type)
        else:
            losses = item_losses(self.loss, computed, labels)
        if self.class_weights is not None:
            losses = losses * self._weights(labels)
        if self.kind == "regression":
            second = (guess[:, 0] - labels).abs()
        elif self.kind == "multi-label":
            second = ((guess.sigmoid() >= self.settings.threshold) == labels.bool()).all(1).float()
        else:
            second = (guess.argmax(-1) == labels).float()
        return torch.stack([losses.sum(), second.sum()])

    @property
    def distribution_names(self) -> Sequence[str]:
        """The loss."""
        return ("loss",)

    def distribution_counts(self, batch: Batch) -> Tensor:
        """Return (1,) the number of texts. Class weights have no effect on it."""
        return self.counts(batch)[1:]

    def distributions(self, computed: Tensor, batch: Batch) -> list[Distribution]:
        """Return the probabilities of the labels, or the numbers of a regression."""
        return [{"single-label": one_of, "multi-label": each_of, "regression": numbers}[self.kind](computed)]

    def outputs_of(self, computed: Tensor, batch: Batch) -> list[Logits]:
        """Return (L,) the logits of each text."""
        return list(computed.cpu().numpy())

    # -- scores --------------------------------------------------------------------------------------------------

    def scores(self, split: EncodedTexts, outputs: list[Logits], subset: Subset) -> dict[str, float]:
        """Return the metrics of the problem. A correlation that is not defined counts as 0, with a warning."""
        if self.kind == "regression":
            return self._regression_scores(np.stack(outputs[subset.examples]), _labels(split)[subset.examples])
        report = self._report(split, outputs, subset.examples)
        scores = {"accuracy": report.accuracy, "macro_f1": report.macro.f1}
        if self.kind == "multi-label":
            return {**scores, "micro_f1": report.micro.f1}
        scores["matthews"] = matthews(self._confusion(split, outputs, subset.examples))
        if len(self.labels) == 2:
            scores["f1"] = report.per_label[self.settings.positive_label or self.labels[1]].f1
        self._warn_if_constant(np.stack(outputs[subset.examples]).argmax(-1))
        return scores

    def _regression_scores(self, logits: NDArray[np.float32], gold: NDArray[np.generic]) -> dict[str, float]:
        guess, numbers = logits[:, 0].astype(np.float64), gold.astype(np.float64)
        if len(numbers) > 1 and len(np.unique(numbers)) == 1 and not self._warned_of_constant:
            self._warned_of_constant = True
            log.warning("every gold number of a split is %g; correlations are counted as 0", numbers[0])
        self._warn_if_constant(guess)
        return {
            "pearson": pearson(guess, numbers),
            "spearman": spearman(guess, numbers),
            "mean_squared_error": float(np.mean((guess - numbers) ** 2)),
        }

    def _warn_if_constant(self, guess: NDArray[np.generic]) -> None:
        if len(guess) > 1 and len(np.unique(guess)) == 1 and not self._warned_of_constant:
            self._warned_of_constant = True
            log.warning("every prediction of a split is the same; correlations are counted as 0")

    def _confusion(self, split: EncodedTexts, outputs: list[Logits], which: slice) -> NDArray[np.int64]:
        return confusion_matrix(_labels(split)[which], np.stack(outputs[which]).argmax(-1), len(self.labels))

    def _report(self, split: EncodedTexts, outputs: list[Logits], which: slice) -> ClassificationReport:
        if self.kind == "multi-label":
            guess = _sigmoid(np.stack(outputs[which])) >= self.settings.threshold
            return multi_label_report(_labels(split)[which].astype(bool), guess, self.labels)
        return classification_report(self._confusion(split, outputs, which), self.labels)

    def report(self, split: EncodedTexts, outputs: list[Logits]) -> Report:
        """Report the scores per class and the confusion matrix; for a regression, the largest errors."""
        if self.kind == "regression":
            return self._largest_errors(split, outputs)
        every = slice(None)
        report = self._report(split, outputs, every)
        rows = [[label, *score] for label, score in report.per_label.items()]
        return Report(
            "\n".join(report.lines()),
            {"classes": (["class", "precision", "recall", "f1", "support"], rows)},
            (self.labels, self._confusion(split, outputs, every)) if self.kind == "single-label" else None,
        )

    def _largest_errors(self, split: EncodedTexts, outputs: list[Logits]) -> Report:
        errors = [
            (abs(float(output[0]) - float(gold)), float(gold), float(output[0]), example.text)
            for output, gold, example in zip(outputs, _labels(split), split.examples, strict=True)
        ]
        worst = sorted(errors, reverse=True)[:_NUM_WORST]
        lines = [f"{'error':>8} {'gold':>8} {'predicted':>10}  text"]
        lines += [f"{error:8.3f} {gold:8.3f} {guess:10.3f}  {text[:70]}" for error, gold, guess, text in worst]
        return Report("\n".join(lines), {"largest errors": (["error", "gold", "predicted", "text"], worst)})

    # -- predictions ---------------------------------------------------------------------------------------------

    def predictions(self, split: EncodedTexts, outputs: list[Logits]) -> list[dict[str, object]]:
        """Return each text with its label or labels and all probabilities; for a regression, with its score."""
        rows = []
        # Rename a text column that has the name of a result, because the result would replace the text.
        columns = zip(self.line_columns, ("text", "text_pair"), strict=False)
        names = [plain if name in _RESULTS else name for name, plain in columns]
        for example, logits in zip(split.examples, outputs, strict=True):
            row: dict[str, object] = dict(zip(names, (example.text, example.text_pair), strict=False))
            row |= self._prediction(logits)
            if split.labels is not None:
                row["gold"] = list(example.label) if isinstance(example.label, tuple) else example.label
            rows.append(row)
        return rows

    def _prediction(self, logits: Logits) -> dict[str, object]:
        if self.kind == "regression":
            return {"score": rounded(logits[0])}
        probabilities = _sigmoid(logits) if self.kind == "multi-label" else softmax(logits)
        by_label = {label: rounded(p) for label, p in zip(self.labels, probabilities, strict=True)}
        if self.kind == "single-label":
            return {"label": self._likeliest(logits), "probabilities": by_label}
        likely = probabilities >= self.settings.threshold
        return {
            "labels": [label for label, is_likely in zip(self.labels, likely, strict=True) if is_likely],
            "probabilities": by_label,
        }

    def _likeliest(self, logits: Logits) -> str:
        return self.labels[int(np.argmax(logits))]

    def files(self, split: EncodedTexts, outputs: list[Logits]) -> dict[str, str]:
        """Return `<task>.tsv` of the GLUE submission for each subset that has one: `index` and `prediction`."""
        files = {}
        for subset in split.subsets:
            if subset.submission is not None:
                lines = ["index\tprediction"]
                for index, logits in enumerate(outputs[subset.examples]):
                    guess = f"{logits[0]:.3f}" if self.kind == "regression" else self._likeliest(logits)
                    lines.append(f"{index}\t{guess}")
                files[f"{subset.submission}.tsv"] = "\n".join(lines) + "\n"
        return files

    def example_of(self, row: Row) -> LabelledText:
        """Turn a row with the text column, and the second one if the model reads pairs, into an example."""
        texts = [column(row, name) for name in self.line_columns]
        return LabelledText(row.location, texts[0], texts[1] if len(texts) > 1 else None, None, "")

    def explained(self, row: Row, target: str | None) -> list[Explained]:
        """Return the logit of a label, by default of the likeliest one, or the number of a regression."""
        split = self.encode([self.example_of(row)])
        [logits] = self.outputs_for(split, 1)
        if self.kind == "regression":
            if target not in (None, self.labels[0]):
                raise InputError(f"the target is {target!r}, but this model gives one number, {self.labels[0]!r}")
            return [explained_text(self, split, 0, self.labels[0], f"{logits[0]:.4g}")]
        predicted = self._likeliest(logits)
        number = number_of(predicted if target is None else target, self.labels, "label")
        return [explained_text(self, split, number, self.labels[number], predicted)]

    def encode(self, examples: list[LabelledText]) -> EncodedTexts:
        return EncodedTexts(examples, self.tokenizer, self.settings, self.labels)


def _labels(split: EncodedTexts) -> NDArray[np.int64] | NDArray[np.float32]:
    assert split.labels is not None, "only labelled splits are scored"
    return split.labels


def _sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    probabilities: NDArray[np.float64] = 1 / (1 + np.exp(-np.clip(logits.astype(np.float64), -500, 500)))
    return probabilities
