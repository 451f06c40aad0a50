"""How many seeds a difference needs, compared with R, statsmodels, simulation and closed forms."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.power import TTestIndPower, TTestPower

from bert_lightning.errors import InputError
from bert_lightning.studies.statistics import (
    detectable_difference,
    deviation_interval,
    noether,
    power_of_t,
    seeds_needed,
)


def test_power_is_that_of_rs_power_t_test():
    # R drops the tail of the wrong sign, which is below 1e-7 here.
    assert power_of_t(20, 1, 1, paired=False) == pytest.approx(0.8689528, abs=1e-6)
    assert power_of_t(22.02110, 1, 1, paired=False) == pytest.approx(0.9, abs=1e-6)


@given(st.integers(2, 60), st.floats(0.05, 3), st.booleans(), st.sampled_from([0.01, 0.05, 0.1]))
def test_power_is_that_of_statsmodels(num, effect, paired, alpha):
    oracle = TTestPower().power(effect, num, alpha) if paired else TTestIndPower().power(effect, num, alpha)
    power = power_of_t(num, 0.02 * effect, 0.02, paired=paired, alpha=alpha)
    if np.isfinite(oracle):
        assert power == pytest.approx(oracle, abs=1e-8)
    else:
        assert 0.5 < power <= 1


def test_the_tail_that_scipy_cannot_compute_is_too_small_to_matter():
    generator = np.random.default_rng(0)
    degrees, alpha = np.rint(10 ** generator.uniform(0, 5, 4000)), generator.choice([0.001, 0.01, 0.05, 0.2], 4000)
    centre = generator.uniform(0, 12, 4000)
    bound = stats.t.isf(alpha / 2, degrees)
    lost = ~np.isfinite(stats.nct.cdf(-bound, degrees, centre))
    assert lost.any()
    # A t below 0 needs a normal value below 0.
    assert stats.norm.sf(centre[lost]).max() < 1e-6
    assert np.isfinite(stats.nct.sf(bound, degrees, centre)).all()


def test_power_is_the_share_of_simulated_studies_that_find_the_difference():
    draws = np.random.default_rng(0).normal(1.5, 1, (20_000, 5))
    found = stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05
    power = power_of_t(5, 1.5, 1)
    assert abs(found.mean() - power) < 4 * (power * (1 - power) / 20_000) ** 0.5


@pytest.mark.parametrize(("effect", "paired", "independent"), [(0.5, 34, 64), (1, 10, 17), (2, 5, 6)])
def test_the_seeds_needed_are_those_of_the_table(effect, paired, independent):
    assert seeds_needed(effect, 1) == seeds_needed(-0.01 * effect, 0.01) == paired
    assert seeds_needed(effect, 1, paired=False) == independent


@settings(max_examples=40)
@given(st.floats(0.02, 5), st.booleans(), st.sampled_from([0.5, 0.8, 0.95]))
def test_one_seed_less_has_too_little_power(effect, paired, power):
    num = seeds_needed(effect, 1, paired=paired, power=power)
    assert power_of_t(num, effect, 1, paired=paired) >= power
    assert num == 2 or power_of_t(num - 1, effect, 1, paired=paired) < power


def test_tiny_differences_need_a_number_of_seeds_that_is_still_computed():
    num = seeds_needed(1e-6, 1)
    assert num == pytest.approx((1.959964 + 0.841621) ** 2 * 1e12, rel=1e-5)
    assert seeds_needed(1000, 1) == 2
    assert power_of_t(5, 1e6, 1) == 1.0


@settings(max_examples=40)
@given(st.integers(2, 40), st.booleans())
def test_the_detectable_difference_has_the_power_that_was_asked_for(num, paired):
    difference = detectable_difference(num, 0.3, paired=paired, power=0.9)
    assert power_of_t(num, difference, 0.3, paired=paired) == pytest.approx(0.9, abs=1e-6)


@pytest.mark.parametrize(("probability", "num"), [(0.70, 46), (0.75, 29), (0.80, 21), (0.25, 29)])
def test_noethers_numbers_are_those_that_bouthillier_published(probability, num):
    assert noether(probability) == num


def test_the_interval_of_a_deviation_covers_it():
    generator, draws = np.random.default_rng(4), 1000
    hits = 0
    for _ in range(draws):
        low, high = deviation_interval(generator.normal(0, 2, 5).std(ddof=1), 4)
        hits += low <= 2 <= high
    assert stats.binom.ppf(1e-4, draws, 0.95) <= hits <= stats.binom.ppf(1 - 1e-4, draws, 0.95)


def test_values_without_a_spread_have_no_power():
    with pytest.raises(InputError, match="the runs must differ"):
        seeds_needed(0.1, 0)
    with pytest.raises(InputError, match="a deviation of 0 "):
        deviation_interval(0, 4)
    with pytest.raises(InputError, match="with 0 degrees of freedom"):
        deviation_interval(0.7, 0)
    with pytest.raises(InputError, match="other than 0"):
        seeds_needed(0, 1)
    with pytest.raises(InputError, match="at least 2"):
        detectable_difference(1, 1)
    with pytest.raises(InputError, match=r"power is 1\.0"):
        seeds_needed(1, 1, power=1.0)
    with pytest.raises(InputError, match="more than alpha"):
        detectable_difference(5, 1, power=0.04)
    with pytest.raises(InputError, match="can tell from chance"):
        noether(0.5)
