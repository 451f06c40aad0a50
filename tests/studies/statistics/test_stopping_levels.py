"""Levels of several looks, compared with published constants, scipy's multivariate normal and simulation."""

import numpy as np
import pytest
from scipy import stats

from bert_lightning.errors import InputError
from bert_lightning.studies.statistics import stopping_levels

# Jennison and Turnbull 2000, tables 2.1 and 2.3, two-sided alpha 0.05.
POCOCK = {2: 2.178, 3: 2.289, 4: 2.361, 5: 2.413, 10: 2.555}
OBRIEN_FLEMING = {2: 1.977, 3: 2.004, 4: 2.024, 5: 2.040, 10: 2.087}


@pytest.mark.parametrize("looks", POCOCK)
def test_equal_looks_have_the_published_constants(looks):
    pocock = stats.norm.isf(np.array(stopping_levels(range(1, looks + 1))) / 2)
    assert pocock == pytest.approx(np.full(looks, POCOCK[looks]), abs=5.1e-4)
    fleming = stats.norm.isf(np.array(stopping_levels(range(1, looks + 1), rule="obrien-fleming")) / 2)
    expected = OBRIEN_FLEMING[looks] * (looks / np.arange(1, looks + 1)) ** 0.5
    assert fleming == pytest.approx(expected, rel=3e-4)


@pytest.mark.parametrize("rule", ["pocock", "obrien-fleming"])
def test_unequal_looks_together_have_the_level(rule):
    seeds, alpha = [3, 5, 10], 0.1
    bounds = stats.norm.isf(np.array(stopping_levels(seeds, alpha, rule)) / 2)
    covariance = [[(min(a, b) / max(a, b)) ** 0.5 for a in seeds] for b in seeds]
    normal = stats.multivariate_normal(np.zeros(3), covariance, seed=1, abseps=1e-6, releps=1e-6, maxpts=1_000_000)
    inside = normal.cdf(bounds, lower_limit=-bounds)
    assert inside == pytest.approx(1 - alpha, abs=1e-4)


def test_one_look_has_the_whole_level():
    assert stopping_levels([5]) == pytest.approx([0.05])


@pytest.mark.slow
def test_t_tests_at_these_levels_raise_hardly_more_false_alarms_than_planned():
    draws, looks = 40_000, [5, 10, 15, 20, 25]
    values = np.random.default_rng(0).normal(size=(draws, 25))
    p = np.array([stats.ttest_1samp(values[:, :seeds], 0, axis=1).pvalue for seeds in looks])
    naive = (p < 0.05).any(axis=0).mean()
    assert naive == pytest.approx(0.142, abs=0.015)
    for rule in ("pocock", "obrien-fleming"):
        alarms = (p < np.array(stopping_levels(looks, rule=rule))[:, None]).any(axis=0).mean()
        assert 0.045 < alarms < 0.056


def test_looks_must_grow():
    for seeds in ([], [5, 5], [0, 5], [10, 5]):
        with pytest.raises(InputError, match="they must increase"):
            stopping_levels(seeds)
    with pytest.raises(InputError, match="known: pocock"):
        stopping_levels([5], rule="haybittle")
    with pytest.raises(InputError, match="alpha is 1"):
        stopping_levels([5], alpha=1)
