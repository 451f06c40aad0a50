"""Reports of classification, compared with torchmetrics and counting by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional import classification as reference

from bert_lightning.metrics.classification import (
    classification_report,
    confusion_matrix,
    matthews,
    multi_label_report,
)

NAMES = ["a", "b", "c", "d"]


@st.composite
def labelled(draw):
    """Draw gold and predicted ids of 2 to 4 labels, and the number of labels."""
    num_labels = draw(st.integers(2, 4))
    ids = st.integers(0, num_labels - 1)
    pairs = draw(st.lists(st.tuples(ids, ids), min_size=1, max_size=40))
    return np.array(pairs).T, num_labels


@given(labelled())
def test_the_confusion_matrix_counts_pairs_of_gold_row_and_predicted_column(case):
    (gold, predicted), num_labels = case
    counts = confusion_matrix(gold, predicted, num_labels)
    for a in range(num_labels):
        for b in range(num_labels):
            assert counts[a, b] == sum((gold == a) & (predicted == b))


@pytest.mark.parametrize("ids", [[0, 3], [-1, 0]])
def test_ids_outside_the_labels_are_an_error(ids):
    with pytest.raises(ValueError, match="but there are 3 labels"):
        confusion_matrix(np.array([0, 1]), np.array(ids), 3)


@settings(max_examples=40)
@given(labelled())
def test_a_report_is_that_of_torchmetrics(case):
    (gold, predicted), num_labels = case
    report = classification_report(confusion_matrix(gold, predicted, num_labels), NAMES[:num_labels])
    for name in ("precision", "recall", "f1"):
        function = getattr(reference, "multiclass_f1_score" if name == "f1" else f"multiclass_{name}")

        def expected(average, function=function):
            return function(torch.tensor(predicted), torch.tensor(gold), num_labels, average=average).numpy()

        for kind in ("micro", "macro", "weighted"):
            assert getattr(getattr(report, kind), name) == pytest.approx(float(expected(kind)), abs=1e-6)
        assert [getattr(score, name) for score in report.per_label.values()] == pytest.approx(
            expected("none").tolist(), abs=1e-6
        )
    assert report.accuracy == pytest.approx((gold == predicted).mean())
    assert [score.support for score in report.per_label.values()] == np.bincount(gold, minlength=num_labels).tolist()


@given(labelled())
def test_matthews_is_that_of_torchmetrics_or_zero_if_it_is_not_defined(case):
    (gold, predicted), num_labels = case
    value = matthews(confusion_matrix(gold, predicted, num_labels))
    if len(set(gold)) == 1 or len(set(predicted)) == 1:
        assert value == 0.0
    else:
        expected = reference.multiclass_matthews_corrcoef(torch.tensor(predicted), torch.tensor(gold), num_labels)
        assert value == pytest.approx(float(expected), abs=1e-5)


def test_matthews_of_large_counts_does_not_overflow():
    assert matthews(np.array([[3_000_000_000, 0], [0, 2_000_000_000]])) == pytest.approx(1.0, abs=1e-12)
    assert matthews(np.array([[0, 2_000_000_000], [2_000_000_000, 0]])) == pytest.approx(-1.0, abs=1e-12)


@settings(max_examples=30)
@given(st.lists(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=3, max_size=3), min_size=1, max_size=20))
def test_a_multi_label_report_is_that_of_torchmetrics(rows):
    gold, predicted = np.moveaxis(np.array(rows), -1, 0)
    report = multi_label_report(gold, predicted, NAMES[:3])
    guess, truth = torch.tensor(predicted).int(), torch.tensor(gold).int()
    for name in ("precision", "recall", "f1"):
        function = getattr(reference, "multilabel_f1_score" if name == "f1" else f"multilabel_{name}")
        for kind in ("micro", "macro", "weighted"):
            expected = float(function(guess, truth, 3, average=kind))
            assert getattr(getattr(report, kind), name) == pytest.approx(expected, abs=1e-6)
    assert report.accuracy == pytest.approx(float(reference.multilabel_exact_match(guess, truth, 3)), abs=1e-6)


def test_a_report_without_examples_scores_zero():
    report = classification_report(np.zeros((2, 2), int), ["a", "b"])
    assert report.accuracy == report.micro.f1 == report.macro.f1 == report.weighted.f1 == 0
    assert multi_label_report(np.zeros((0, 2)), np.zeros((0, 2)), ["a", "b"]).accuracy == 0


def test_the_table_has_a_row_for_each_label_and_average():
    # Label "yes": precision 3/4, recall 3/5. Label "no, never": 4/6, 4/5.
    report = classification_report(np.array([[3, 2], [1, 4]]), ["yes", "no, never"])
    assert list(report.lines()) == [
        "           precision  recall      f1  support",
        "yes           0.7500  0.6000  0.6667        5",
        "no, never     0.6667  0.8000  0.7273        5",
        "",
        "micro         0.7000  0.7000  0.7000       10",
        "macro         0.7083  0.7000  0.6970       10",
        "weighted      0.7083  0.7000  0.6970       10",
        "",
        "accuracy      0.7000",
    ]
