"""Reports of classification from counts: per label, averaged, and the Matthews correlation.

A score with a zero denominator is 0, as in scikit-learn and conlleval.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bert_lightning.checkpoints.plain_text import printable


class ClassScore(NamedTuple):
    """Scores of a label, or an average over labels, as fractions.

    Attributes:
        precision: the fraction of the predictions of the label that are correct.
        recall: the fraction of the gold occurrences of the label that are predicted.
        f1: their harmonic mean; in an average the mean of the labels' F1, not the F1 of the means.
        support: the number of gold occurrences of the label.
    """

    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class ClassificationReport:
    """Scores of a whole set.

    Attributes:
        accuracy: fraction of examples whose prediction is completely right.
        per_label: scores of each label, in label order.
        micro: over all decisions together.
        macro: mean over labels. If each example has one label, it leaves out labels that neither gold nor prediction
            has, as scikit-learn and torchmetrics do. If an example may have several labels, all labels count.
        weighted: mean over labels, weighted by support.
    """

    accuracy: float
    per_label: dict[str, ClassScore]
    micro: ClassScore
    macro: ClassScore
    weighted: ClassScore

    def lines(self) -> Iterator[str]:
        """Yield a table of fixed width: one line per label, the averages, and the accuracy."""
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


def confusion_matrix(gold: ArrayLike, predicted: ArrayLike, num_labels: int) -> NDArray[np.int64]:
    """Return (L, L) counts, rows gold, columns predicted.

    Args:
        gold: (n,) label ids from 0.
        predicted: (n,) label ids.
        num_labels: L.

    Raises:
        ValueError: the arrays differ in shape, or an id is outside 0 to L - 1.

    >>> confusion_matrix([0, 0, 1], [0, 1, 1], 2).tolist()
    [[1, 1], [0, 1]]
    """
    gold_ids, predicted_ids = np.asarray(gold, np.int64), np.asarray(predicted, np.int64)
    if gold_ids.shape != predicted_ids.shape or gold_ids.ndim != 1:
        raise ValueError(f"gold is {gold_ids.shape}, predicted {predicted_ids.shape}; both must be (n,)")
    for ids in (gold_ids, predicted_ids):
        if len(ids) and not (ids.min() >= 0 and ids.max() < num_labels):
            raise ValueError(f"label ids go from {ids.min()} to {ids.max()}, but there are {num_labels} labels")
    counts = np.bincount(gold_ids * num_labels + predicted_ids, minlength=num_labels * num_labels)
    return counts.reshape(num_labels, num_labels)


def classification_report(confusion: ArrayLike, labels: Sequence[str]) -> ClassificationReport:
    """Return the report of examples that have one label each.

    Args:
        confusion: (L, L) counts, rows gold.
        labels: (L) names in id order.

    >>> classification_report([[1, 1], [0, 1]], ["cat", "dog"]).per_label["dog"].recall
    1.0
    """
    counts = np.asarray(confusion)
    correct, num_gold, num_predicted = counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0)
    accuracy = _ratio(correct.sum(), counts.sum())
    return _report(accuracy, labels, correct, num_gold, num_predicted, num_gold + num_predicted > 0)


def multi_label_report(gold: ArrayLike, predicted: ArrayLike, labels: Sequence[str]) -> ClassificationReport:
    """Return the report of examples that have any number of labels; accuracy counts sets that are completely right.

    Args:
        gold: (n, L) booleans.
        predicted: (n, L) booleans.
        labels: (L) names in id order.

    Raises:
        ValueError: the arrays do not have the shape (n, L).
    """
    is_gold, is_predicted = np.asarray(gold, bool), np.asarray(predicted, bool)
    if is_gold.shape != is_predicted.shape or is_gold.ndim != 2 or is_gold.shape[1] != len(labels):
        raise ValueError(f"gold is {is_gold.shape}, predicted {is_predicted.shape}; both must be (n, {len(labels)})")
    accuracy = _ratio((is_gold == is_predicted).all(axis=1).sum(), len(is_gold))
    num_correct = (is_gold & is_predicted).sum(axis=0)
    in_macro = np.ones(len(labels), bool)
    return _report(accuracy, labels, num_correct, is_gold.sum(axis=0), is_predicted.sum(axis=0), in_macro)


def _report(
    accuracy: float,
    labels: Sequence[str],
    num_correct: NDArray[np.int64],
    num_gold: NDArray[np.int64],
    num_predicted: NDArray[np.int64],
    in_macro: NDArray[np.bool_],
) -> ClassificationReport:
    """Build a report from counts (L,) per label; `in_macro` (L,) selects the labels of the macro average."""
    scores = [_score(*counts) for counts in zip(num_correct, num_gold, num_predicted, strict=True)]
    return ClassificationReport(
        accuracy=accuracy,
        per_label=dict(zip(labels, scores, strict=True)),
        micro=_score(num_correct.sum(), num_gold.sum(), num_predicted.sum()),
        macro=_average(scores, in_macro.astype(np.float64)),
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


def matthews(confusion: ArrayLike) -> float:
    """Return the correlation R_K of gold and predicted labels, -1 to 1; for two labels it is Matthews' phi.

    Gorodkin 2004, "Comparing two K-category assignments by a K-category correlation coefficient". The correlation is
    not defined if either side has one label only. Then it counts as 0: a constant prediction has learned nothing.

    Args:
        confusion: (L, L) counts, rows gold.

    >>> matthews([[2, 0], [0, 2]])
    1.0
    """
    counts = np.asarray(confusion)
    # Python integers: the fourth power of a number of examples may need more than 64 bits.
    gold, predicted = counts.sum(axis=1).tolist(), counts.sum(axis=0).tolist()
    total, correct = sum(gold), int(counts.trace())
    covariance = correct * total - sum(a * b for a, b in zip(gold, predicted, strict=True))
    gold_variance = total**2 - sum(a * a for a in gold)
    predicted_variance = total**2 - sum(b * b for b in predicted)
    if not gold_variance or not predicted_variance:
        return 0.0
    return float(covariance / (gold_variance * predicted_variance) ** 0.5)


def _ratio(numerator: int, denominator: int) -> float:
    return float(numerator / denominator) if denominator else 0.0
