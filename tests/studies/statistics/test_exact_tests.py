"""Exact tests of few runs, compared with brute force over integers and with scipy."""

from fractions import Fraction
from itertools import combinations, product
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from bert_lightning.studies.statistics.exact import (
    least_permutation_p,
    least_sign_flip_p,
    permutations,
    sign_flips,
)

RIGHT = st.integers(180, 190)


@given(st.lists(st.tuples(RIGHT, RIGHT), min_size=1, max_size=8))
def test_sign_flips_are_counted_as_by_brute_force_over_integers(pairs):
    differences = [first - second for first, second in pairs]
    sums = [
        abs(sum(s * d for s, d in zip(signs, differences, strict=True)))
        for signs in product((1, -1), repeat=len(pairs))
    ]
    expected = Fraction(sum(each >= abs(sum(differences)) for each in sums), len(sums))
    ours, baseline = np.array(pairs).T / 277
    assert sign_flips(ours - baseline) == float(expected)


@given(st.lists(RIGHT, min_size=1, max_size=5), st.lists(RIGHT, min_size=1, max_size=5))
def test_permutations_are_counted_as_by_brute_force_over_integers(ours, baseline):
    both = [*ours, *baseline]
    sums = [sum(both[place] for place in places) for places in combinations(range(len(both)), len(ours))]
    shares = sum(each >= sum(ours) for each in sums), sum(each <= sum(ours) for each in sums)
    expected = min(1.0, float(Fraction(2 * min(shares), len(sums))))
    assert permutations(np.array(ours) / 277, np.array(baseline) / 277) == pytest.approx(expected, rel=1e-12)


def test_both_exact_tests_are_those_of_scipy_where_nothing_is_tied():
    generator = np.random.default_rng(0)
    ours, baseline = generator.normal(0.5, 1, 7), generator.normal(0, 1, 6)
    flipped = stats.permutation_test((ours,), np.sum, permutation_type="samples", n_resamples=np.inf).pvalue
    assert sign_flips(ours) == pytest.approx(flipped)
    exchanged = stats.permutation_test(
        (ours, baseline), lambda a, b: a.mean() - b.mean(), permutation_type="independent", n_resamples=np.inf
    ).pvalue
    assert permutations(ours, baseline) == pytest.approx(exchanged)


@pytest.mark.parametrize(
    ("num", "paired", "unpaired"),
    [(3, 0.25, 0.1), (4, 0.125, 0.0286), (5, 0.0625, 0.0079), (6, 0.0313, 0.0022), (8, 0.0078, 0.00016)],
)
def test_the_least_p_values_are_those_of_arms_without_overlap(num, paired, unpaired):
    low, high = np.arange(num) / 7, 100 + np.arange(num) / 7
    assert least_sign_flip_p(num) == sign_flips(high - low) == pytest.approx(paired, abs=5.1e-5)
    assert least_permutation_p(num, num) == permutations(high, low) == pytest.approx(unpaired, abs=5e-5)


def test_forty_differences_are_counted_and_more_are_not():
    assert sign_flips(np.ones(40)) == 2.0**-39
    # 20 of 40 signs: the normal approximation with a continuity correction.
    signs = np.array([1.0] * 26 + [-1.0] * 14)
    assert sign_flips(signs) == pytest.approx(stats.binomtest(14, 40).pvalue)
    assert sign_flips(np.ones(41)) is None
    assert comb(20, 10) < 200_000 < comb(22, 11)
    assert permutations(np.arange(10.0), np.arange(10.0)) == pytest.approx(1.0)
    assert permutations(np.arange(11.0), np.arange(11.0)) is None
