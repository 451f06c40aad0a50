"""Reports of classification from counts: per label, averaged, and the Matthews correlation.

What has nothing to divide by is 0, as in scikit-learn and conlleval.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bert_lightning.checkpoints.plain_text import printable


class ClassScore(NamedTuple):
    """Scores of a label or an average, as fractions.

    Attributes:
        precision: of what was predicted so, how much is so.
        recall: of what is so, how much was predicted so.
        f1: their harmonic mean; in an average the mean of the labels' F1, not the F1 of the means.
        support: how often the label is gold.
    """

    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class ClassificationReport:
    """Scores of a whole set.

    Attributes:
        accuracy: fraction of examples that are wholly right.
        per_label: of each label, in label order.
        micro: over all decisions together.
        macro: mean over labels. Where an example has one label, those that neither gold nor prediction has are left
            out, as in scikit-learn and torchmetrics; where it has a set of them, none is.
        weighted: mean over labels, weighted by support.
    """

    accuracy: float
    per_label: dict[str, ClassScore]
    micro: ClassScore
    macro: ClassScore
    weighted: ClassScore

    def lines(self) -> Iterator[str]:
        """A table of fixed width: a row a label, the averages, and the accuracy."""
        labels = [(printable(label), score) for label, score in self.per_label.items()]
        averages = [("micro", self.micro), ("macro", self.macro), ("weighted", self.weighted)]
        width = max(len(name) for name, _ in [*labels, *averages, ("accuracy", None)])
        yield f"{'':<{width}}  precision  recall      f1  support"
        for rows in (labels, averages):
            for name, score in rows:
                figures = f"{score.precision:>9.4f}  {score.recall:.4f}  {score.f1:.4f}  {score.support:>7,}"
                yield f"{name:<{width}}  {figures}"
            yield ""
        yield f"{'accuracy':<{width}}  {self.accuracy:>9.4f}"


def confusion_matrix(gold: NDArray[Any], predicted: NDArray[Any], num_labels: int) -> NDArray[np.int64]:
    """(L, L) counts, rows gold, columns predicted.

    Args:
        gold: (n,) label ids from 0.
        predicted: (n,) label ids.
        num_labels: L.

    Raises:
        ValueError: arrays of different shape, or an id outside 0 to L - 1.
    """
    gold, predicted = np.asarray(gold, np.int64), np.asarray(predicted, np.int64)
    if gold.shape != predicted.shape or gold.ndim != 1:
        raise ValueError(f"gold is {gold.shape}, predicted {predicted.shape}; both must be (n,)")
    for ids in (gold, predicted):
        if len(ids) and not (ids.min() >= 0 and ids.max() < num_labels):
            raise ValueError(f"label ids from {ids.min()} to {ids.max()}, but there are {num_labels} labels")
    counts = np.bincount(gold * num_labels + predicted, minlength=num_labels * num_labels)
    return counts.reshape(num_labels, num_labels)


def classification_report(confusion: NDArray[Any], labels: Sequence[str]) -> ClassificationReport:
    """The report of examples that have one label each.

    Args:
        confusion: (L, L) counts, rows gold.
        labels: (L) names in id order.
    """
    confusion = np.asarray(confusion)
    correct, num_gold, num_predicted = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    accuracy = _ratio(correct.sum(), confusion.sum())
    return _report(accuracy, labels, correct, num_gold, num_predicted, num_gold + num_predicted > 0)


def multi_label_report(gold: NDArray[Any], predicted: NDArray[Any], labels: Sequence[str]) -> ClassificationReport:
    """The report of examples that have any number of labels; accuracy counts those whose whole set is right.

    Args:
        gold: (n, L) booleans.
        predicted: (n, L) booleans.
        labels: (L) names in id order.

    Raises:
        ValueError: arrays of other shapes.
    """
    gold, predicted = np.asarray(gold, bool), np.asarray(predicted, bool)
    if gold.shape != predicted.shape or gold.ndim != 2 or gold.shape[1] != len(labels):
        raise ValueError(f"gold is {gold.shape}, predicted {predicted.shape}; both must be (n, {len(labels)})")
    accuracy = _ratio((gold == predicted).all(axis=1).sum(), len(gold))
    counted = np.ones(len(labels), bool)
    return _report(accuracy, labels, (gold & predicted).sum(axis=0), gold.sum(axis=0), predicted.sum(axis=0), counted)


def _report(
    accuracy: float,
    labels: Sequence[str],
    correct: NDArray[Any],
    num_gold: NDArray[Any],
    num_predicted: NDArray[Any],
    counted: NDArray[np.bool_],
) -> ClassificationReport:
    """`counted`: (L,) whether a label is part of the macro average."""
    scores = [_score(*counts) for counts in zip(correct, num_gold, num_predicted, strict=True)]
    return ClassificationReport(
        accuracy=accuracy,
        per_label=dict(zip(labels, scores, strict=True)),
        micro=_score(correct.sum(), num_gold.sum(), num_predicted.sum()),
        macro=_average(scores, counted.astype(np.float64)),
        weighted=_average(scores, num_gold.astype(np.float64)),
    )


def _score(correct: int, num_gold: int, num_predicted: int) -> ClassScore:
    # 2 TP / (2 TP + FP + FN), the harmonic mean without its two divisions.
    f1 = _ratio(2 * correct, num_gold + num_predicted)
    return ClassScore(_ratio(correct, num_predicted), _ratio(correct, num_gold), f1, int(num_gold))


def _average(scores: Sequence[ClassScore], weights: NDArray[np.float64]) -> ClassScore:
    support = sum(score.support for score in scores)
    if not weights.any():
        return ClassScore(0.0, 0.0, 0.0, support)
    precision, recall, f1 = map(float, weights @ np.array([score[:3] for score in scores]) / weights.sum())
    return ClassScore(precision, recall, f1, support)


def matthews(confusion: NDArray[Any]) -> float:
    """The correlation R_K of gold and predicted labels, -1 to 1; for two labels it is Matthews' phi.

    Gorodkin 2004, "Comparing two K-category assignments by a K-category correlation coefficient". 0 where either side
    has one label only and the correlation is not defined: a constant prediction has learned nothing.

    Args:
        confusion: (L, L) counts, rows gold.
    """
    confusion = np.asarray(confusion)
    # Python's whole numbers: the fourth power of a number of examples leaves 64 bits.
    gold, predicted = confusion.sum(axis=1).tolist(), confusion.sum(axis=0).tolist()
    total, correct = sum(gold), int(confusion.trace())
    covariance = correct * total - sum(a * b for a, b in zip(gold, predicted, strict=True))
    gold_variance = total**2 - sum(a * a for a in gold)
    predicted_variance = total**2 - sum(b * b for b in predicted)
    if not gold_variance or not predicted_variance:
        return 0.0
    return float(covariance / (gold_variance * predicted_variance) ** 0.5)


def _ratio(part: int, whole: int) -> float:
    return float(part / whole) if whole else 0.0
