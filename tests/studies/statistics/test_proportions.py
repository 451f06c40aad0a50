"""Wilson's interval and Fisher's test, compared with statsmodels and scipy."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint

from bert_lightning.errors import InputError
from bert_lightning.studies.statistics import fisher_failures, wilson

COUNTS = st.integers(1, 40).flatmap(lambda num: st.tuples(st.integers(0, num), st.just(num)))


@given(COUNTS, st.sampled_from([0.9, 0.95, 0.99]))
def test_wilsons_interval_is_that_of_statsmodels(counts, level):
    found = wilson(*counts, level)
    assert found.interval == pytest.approx(proportion_confint(*counts, 1 - level, "wilson"), abs=1e-12)


def test_a_perfect_score_still_has_an_interval():
    found = wilson(277, 277)
    assert found.interval == (pytest.approx(0.986, abs=5e-4), 1.0)
    assert wilson(0, 277).interval[0] == 0


@given(COUNTS, COUNTS)
def test_failures_are_compared_as_scipy_and_statsmodels_do(ours, baseline):
    found = fisher_failures(*ours, *baseline)
    table = [[ours[0], ours[1] - ours[0]], [baseline[0], baseline[1] - baseline[0]]]
    assert found.p == pytest.approx(stats.fisher_exact(table).pvalue)
    expected = confint_proportions_2indep(*ours, *baseline, method="newcomb")
    assert found.interval == pytest.approx(expected, abs=1e-9)
    assert found.difference == pytest.approx(ours[0] / ours[1] - baseline[0] / baseline[1])


def test_the_tea_lady_has_fishers_published_p():
    # 3 of 4 cups: the two-sided p is 34/70 (Fisher 1935; Agresti, table 3.8).
    assert fisher_failures(3, 4, 1, 4).p == pytest.approx(34 / 70)


@pytest.mark.parametrize(("part", "whole"), [(-1, 5), (6, 5), (0, 0)])
def test_counts_that_do_not_fit_are_refused(part, whole):
    with pytest.raises(InputError, match="at least 1 in total"):
        wilson(part, whole)
    with pytest.raises(InputError, match="failed runs of the baseline"):
        fisher_failures(0, 5, part, whole)
