"""Intervals over seeds and examples at once, compared with closed forms, random effects and a plain bootstrap."""

import numpy as np
import pytest
from scipy import stats

from bert_lightning.errors import InputError
from bert_lightning.studies.statistics import F1, MEAN, crossed_interval, multi_bootstrap


def test_the_worked_example_has_its_variances():
    found = crossed_interval([[1, 0, -1, 1], [0, 0, 1, 1], [1, 1, 0, 1]])
    seeds, examples, residuals = 0.0208333333, 0.0462962963, 0.0393518519
    degrees = examples**2 / (seeds**2 / 2 + examples**2 / 3 + residuals**2 / 6)
    assert found.difference == 0.5
    assert found.degrees == pytest.approx(degrees)
    half = stats.t.ppf(0.975, degrees) * examples**0.5
    assert found.interval == pytest.approx((0.5 - half, 0.5 + half))
    assert found.p == pytest.approx(2 * stats.t.sf(0.5 / examples**0.5, degrees))


def test_without_a_spread_of_examples_it_is_the_t_test_over_seeds():
    of_seeds = np.array([0.1, 0.3, 0.2, 0.45])
    found = crossed_interval(np.repeat(of_seeds[:, None], 50, axis=1))
    expected = stats.ttest_1samp(of_seeds, 0)
    assert found.p == pytest.approx(expected.pvalue)
    assert found.degrees == pytest.approx(3)


def test_without_a_spread_of_seeds_it_is_the_t_test_over_examples():
    of_examples = np.random.default_rng(0).normal(0.1, 1, 40)
    found = crossed_interval(np.repeat(of_examples[None], 5, axis=0))
    assert found.p == pytest.approx(stats.ttest_1samp(of_examples, 0).pvalue)


def test_the_variance_is_that_of_random_effects_whatever_their_size():
    # E[Vs + Ve - Vr] = s^2/n + e^2/E + r^2/(nE) for the effects of seeds, examples and residuals.
    generator = np.random.default_rng(1)
    s, e, r, seeds, examples = 0.5, 0.7, 1.1, 6, 9
    estimates, means = [], []
    for _ in range(1200):
        values = generator.normal(0, s, (seeds, 1)) + generator.normal(0, e, (1, examples))
        found = crossed_interval(values + generator.normal(0, r, (seeds, examples)))
        estimates.append((found.difference / found.statistic) ** 2)
        means.append(found.difference)
    true = s**2 / seeds + e**2 / examples + r**2 / (seeds * examples)
    assert np.var(means) == pytest.approx(true, rel=0.16)
    # The maximum makes it a little too large, never too small.
    assert true * 0.97 < np.mean(estimates) < true * 1.15


@pytest.mark.parametrize(("shape", "single"), [((1, 5), "1 seed"), ((5, 1), "1 example")])
def test_one_seed_or_one_example_has_no_interval(shape, single):
    found = crossed_interval(np.arange(5.0).reshape(shape))
    assert found.difference == 2
    assert found.interval is found.p is None
    assert found.notes[-1].startswith(f"{single} shows no spread")


def test_equal_differences_have_no_interval():
    found = crossed_interval(np.zeros((3, 10)))
    assert found.difference == 0
    assert found.interval is found.p is None
    with pytest.raises(InputError, match="2 of 4 values that are not finite"):
        crossed_interval([[1, float("nan")], [0, float("inf")]])
    with pytest.raises(InputError, match="2 dimensions"):
        crossed_interval([1, 0])
    with pytest.raises(InputError, match="empty"):
        crossed_interval(np.zeros((3, 0)))


def test_the_multi_bootstrap_of_means_is_near_the_crossed_interval():
    generator = np.random.default_rng(2)
    ours = generator.normal(0.1, 0.1, (20, 1)) + generator.normal(0, 1, (20, 200))
    baseline = generator.normal(0, 0.1, (20, 1)) + generator.normal(0, 1, (20, 200))
    crossed = crossed_interval(ours - baseline)
    found = multi_bootstrap(ours, baseline, MEAN)
    assert found.difference == pytest.approx(crossed.difference)
    assert found.notes == ("The interval is about other seeds and other examples.",)
    widths = [high - low for low, high in (crossed.interval, found.interval)]
    assert 0.9 < widths[1] / widths[0] < 1.4


def test_the_multi_bootstrap_of_f1_is_that_of_a_plain_loop():
    generator = np.random.default_rng(3)
    ours, baseline = generator.integers(0, 3, (5, 40, 3)), generator.integers(0, 3, (4, 40, 3))
    found = multi_bootstrap(ours, baseline, F1, paired=False, resamples=2000)
    slow = multi_bootstrap(ours, baseline, lambda rows: F1(rows), paired=False, resamples=300)
    width = found.interval[1] - found.interval[0]
    assert slow.interval == pytest.approx(found.interval, abs=0.15 * width)
    plain = []
    for _ in range(800):
        chosen = generator.integers(40, size=40)
        scores = [
            [F1(arm[seed][chosen]) for seed in generator.integers(len(arm), size=len(arm))]
            for arm in (ours, baseline)
        ]
        plain.append(np.mean(scores[0]) - np.mean(scores[1]))
    assert found.interval == pytest.approx(tuple(np.quantile(plain, [0.025, 0.975])), abs=0.1 * width)
    assert "A bootstrap over 4 seeds can be too narrow" in found.notes[1]


def test_arms_that_cannot_be_resampled_together_are_refused():
    with pytest.raises(InputError, match="cannot be paired"):
        multi_bootstrap(np.zeros((3, 4)), np.zeros((2, 4)), MEAN)
    with pytest.raises(InputError, match="the examples differ"):
        multi_bootstrap(np.zeros((3, 4)), np.zeros((3, 5)), MEAN)
    assert multi_bootstrap(np.zeros((3, 4)), np.zeros((3, 4)), MEAN).interval is None
