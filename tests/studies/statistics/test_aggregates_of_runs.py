"""IQM and probability of improvement, compared with scipy, closed forms and simulation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from bert_lightning.errors import InputError
from bert_lightning.studies.statistics import interquartile_mean, probability_of_improvement

TENTHS = st.integers(0, 9).map(lambda number: number / 10)


@given(st.lists(TENTHS, min_size=1, max_size=20))
def test_the_interquartile_mean_is_the_trimmed_mean_of_scipy(scores):
    found = interquartile_mean(scores, resamples=100)
    assert found.value == pytest.approx(stats.trim_mean(scores, 0.25, axis=None))


def test_runs_are_resampled_within_their_task():
    # Tasks of different level, runs without spread: nothing is left to chance.
    scores = np.tile(np.arange(10.0), (5, 1))
    assert interquartile_mean(scores).value == 4.5
    assert interquartile_mean(scores).interval is None
    scores = scores + np.random.default_rng(0).normal(0, 0.1, scores.shape)
    found = interquartile_mean(scores)
    assert 0.01 < found.interval[1] - found.interval[0] < 0.2
    assert found.notes == ()
    assert interquartile_mean(scores) == found
    assert "A bootstrap over 5 scores" in interquartile_mean(scores[:, 0]).notes[0]


def test_one_collapsed_run_hardly_moves_the_interquartile_mean():
    scores = np.random.default_rng(1).normal(0.8, 0.01, (10, 2))
    collapsed = scores.copy()
    collapsed[3, 1] = 0.0
    assert abs(interquartile_mean(collapsed).value - interquartile_mean(scores).value) < 0.002
    with pytest.raises(InputError, match="leave failed runs out"):
        interquartile_mean([0.8, float("nan")])


@given(st.lists(TENTHS, min_size=1, max_size=8), st.lists(TENTHS, min_size=1, max_size=8))
def test_the_probability_of_improvement_is_the_statistic_of_mann_and_whitney(ours, baseline):
    found = probability_of_improvement(ours, baseline)
    statistic = stats.mannwhitneyu(ours, baseline).statistic
    assert found.value == pytest.approx(statistic / (len(ours) * len(baseline)))
    low, high = found.interval
    assert 0 <= low <= found.value <= high <= 1
    assert high - low > 0.1
    back = probability_of_improvement(baseline, ours)
    assert back.interval == pytest.approx((1 - high, 1 - low), abs=1e-9)


def test_the_interval_of_a_probability_solves_newcombes_equation():
    found = probability_of_improvement(np.arange(6) + 1.5, np.arange(8))
    z = stats.norm.ppf(0.975)
    for bound in found.interval:
        q1, q2 = bound / (2 - bound), 2 * bound**2 / (1 + bound)  # Hanley and McNeil 1982
        variance = (bound * (1 - bound) + 6 * (q1 - bound**2) + 6 * (q2 - bound**2)) / 48
        assert abs(found.value - bound) == pytest.approx(z * variance**0.5, rel=1e-6)


@pytest.mark.parametrize(("num", "shift"), [(5, 0.0), (5, 1.5), (10, 0.5)])
def test_the_interval_of_a_probability_covers_it(num, shift):
    generator, draws = np.random.default_rng(7), 400
    true = stats.norm.cdf(shift / 2**0.5)
    hits = 0
    for _ in range(draws):
        low, high = probability_of_improvement(generator.normal(shift, 1, num), generator.normal(0, 1, num)).interval
        hits += low <= true <= high
    assert hits >= stats.binom.ppf(1e-4, draws, 0.93)


def test_over_several_tasks_the_probability_is_their_mean():
    generator = np.random.default_rng(2)
    ours, baseline = generator.random((6, 4)) + 0.2, generator.random((9, 4))
    found = probability_of_improvement(ours, baseline)
    each = [probability_of_improvement(ours[:, task], baseline[:, task]).value for task in range(4)]
    assert found.value == pytest.approx(np.mean(each))
    assert found.interval[0] < found.value < found.interval[1]
    with pytest.raises(InputError, match="4 tasks, the baseline 3"):
        probability_of_improvement(ours, baseline[:, :3])


def test_a_clear_improvement_is_called_meaningful():
    better = np.linspace(0.6, 0.7, 10)
    assert "may be meaningful" in probability_of_improvement(better + 0.2, better).notes[0]
    assert probability_of_improvement(better + 0.001, better).notes == ()
