"""Correlations, compared with scipy."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from bert_lightning.metrics.correlation import average_ranks, pearson, spearman

# Thousandths, like scores; many values are tied.
VALUES = st.integers(-50, 50).map(lambda number: number / 8)
PAIRS = st.lists(st.tuples(VALUES, VALUES), min_size=2, max_size=30)


@given(PAIRS)
def test_correlations_are_those_of_scipy_and_zero_if_a_series_is_constant(pairs):
    x, y = np.array(pairs).T
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        assert pearson(x, y) == spearman(x, y) == 0.0
    else:
        assert pearson(x, y) == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-12)
        assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)


@given(st.lists(VALUES, max_size=20))
def test_equal_values_share_the_mean_of_their_ranks(values):
    assert average_ranks(np.array(values, np.float64)).tolist() == stats.rankdata(values).tolist()


def test_a_constant_series_whose_mean_is_inexact_is_still_constant():
    assert np.mean([0.1] * 3) != 0.1
    assert pearson([0.1] * 3, [1, 2, 3]) == 0.0


@pytest.mark.parametrize("scale", [1e-200, 1e-320, 1e200, 4e307])
def test_a_correlation_does_not_depend_on_scale(scale):
    x = np.array([1.0, 2.0, 4.0])
    assert pearson(x * scale, [1, 2, 4]) == pytest.approx(1.0, abs=1e-3)
    assert pearson(x * scale, [4, 2, 1]) < -0.8


def test_values_that_are_not_finite_make_a_correlation_undefined():
    assert math.isnan(pearson([1, math.nan], [1, 2]))
    assert math.isnan(spearman([1, 2], [math.inf, 2]))


def test_fewer_than_two_values_have_no_correlation():
    assert pearson([], []) == spearman([], []) == pearson([1], [2]) == 0.0


def test_series_of_different_length_are_an_error():
    with pytest.raises(ValueError, match=r"both must be \(n,\)"):
        pearson([1, 2], [1, 2, 3])
