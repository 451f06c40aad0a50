"""Measures of continual learning: worked examples, and the formulas of the papers written out."""

import numpy as np
import pytest

from bert_lightning.metrics.continual import (
    average_accuracy,
    backward_transfer,
    forgetting,
    forward_transfer,
    measures,
)

WORKED = [[0.9, 0.2], [0.6, 0.8]]


def test_the_worked_example_has_its_known_measures():
    assert average_accuracy(WORKED) == pytest.approx(0.7, abs=1e-12)
    assert backward_transfer(WORKED) == pytest.approx(-0.3, abs=1e-12)
    assert forgetting(WORKED) == pytest.approx(0.3, abs=1e-12)


def test_forward_transfer_is_not_known_without_the_row_of_the_untrained_model():
    assert forward_transfer(WORKED, None) is None
    assert "forward transfer" not in measures(WORKED)
    assert forward_transfer(WORKED, [0.5, 0.5]) == pytest.approx(-0.3, abs=1e-12)


def test_measures_are_the_formulas_of_the_papers_over_any_matrix():
    generator = np.random.default_rng(0)
    for number in range(2, 7):
        matrix, untrained = generator.random((number, number)), generator.random(number)
        found = measures(matrix.tolist(), untrained.tolist())
        last, own = matrix[-1], np.diag(matrix)
        best = matrix[:-1].max(0)
        expected = {
            "average accuracy": last.mean(),
            "backward transfer": (last - own)[:-1].mean(),
            "forgetting": (best - last)[:-1].mean(),
            "forward transfer": np.mean([matrix[j - 1, j] - untrained[j] for j in range(1, number)]),
            "learning accuracy": own.mean(),
        }
        assert found == pytest.approx(expected, abs=1e-12)


def test_a_later_peak_counts_as_known_best_in_forgetting_but_not_in_backward_transfer():
    matrix = [[0.5, 0.1, 0.1], [0.9, 0.6, 0.1], [0.7, 0.6, 0.8]]
    assert forgetting(matrix) == pytest.approx(0.1, abs=1e-12)
    assert backward_transfer(matrix) == pytest.approx(0.1, abs=1e-12)


def test_a_value_that_was_not_measured_leaves_out_only_the_measures_that_need_it():
    matrix = [[0.9, None], [0.9, 0.8]]
    found = measures(matrix, [0.5, 0.5])
    assert set(found) == {"average accuracy", "forgetting", "backward transfer", "learning accuracy"}
    assert found["forgetting"] == 0.0


def test_a_single_task_has_no_transfer_and_no_forgetting():
    assert measures([[0.5]], [0.1]) == {"average accuracy": 0.5, "learning accuracy": 0.5}
