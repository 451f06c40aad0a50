"""Expected validation performance, compared with enumeration and published forms."""

from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert_lightning.errors import InputError
from bert_lightning.studies.statistics import expected_maximum

TENTHS = st.lists(st.integers(0, 9).map(lambda number: number / 10), min_size=1, max_size=5)


@given(TENTHS, st.integers(1, 5))
def test_both_forms_are_means_over_all_draws(values, budget):
    drawn = product(values, repeat=budget)
    with_replacement = np.mean([max(each) for each in drawn])
    assert expected_maximum(values, budget, replacement=True) == pytest.approx(with_replacement)
    if budget <= len(values):
        without = np.mean([max(each) for each in combinations(values, budget)])
        assert expected_maximum(values, budget) == pytest.approx(without)


def test_the_worked_example_has_its_values():
    assert expected_maximum([3, 1, 2], 2, replacement=True) == pytest.approx(22 / 9)
    assert expected_maximum([3, 1, 2], 2) == pytest.approx(8 / 3)


def test_the_unbiased_form_is_unbiased_and_the_other_is_too_low():
    # The expected maximum of 5 uniform numbers is 5/6.
    draws = np.random.default_rng(0).random((4000, 8))
    unbiased = np.array([expected_maximum(values, 5) for values in draws])
    biased = np.array([expected_maximum(values, 5, replacement=True) for values in draws])
    error = unbiased.std() / 4000**0.5
    assert abs(unbiased.mean() - 5 / 6) < 4 * error
    assert biased.mean() < 5 / 6 - 4 * error


def test_a_thousand_trials_are_no_problem():
    values = np.arange(1000.0)
    assert expected_maximum(values, 1) == pytest.approx(499.5)
    assert expected_maximum(values, 500) == pytest.approx(500 * 1001 / 501 - 1)
    assert expected_maximum(values, 1000) == 999


def test_a_budget_beyond_the_trials_is_refused():
    with pytest.raises(InputError, match="at most 3, the number of trials"):
        expected_maximum([1, 2, 3], 4)
    with pytest.raises(InputError, match=r"budget is 0 trials; it must be at least 1$"):
        expected_maximum([1, 2, 3], 0, replacement=True)
    with pytest.raises(InputError, match="not finite"):
        expected_maximum([1, float("nan")], 1)
    with pytest.raises(InputError, match="empty"):
        expected_maximum([], 1)
