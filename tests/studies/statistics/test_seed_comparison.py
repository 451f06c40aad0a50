"""Intervals and tests over seeds, compared with published examples, scipy and statsmodels."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.weightstats import CompareMeans, DescrStatsW, ttost_ind, ttost_paired

from bert_lightning.errors import InputError
from bert_lightning.studies.statistics import compare_seeds, compare_tasks, mean_interval

# Darwin's maize: Fisher 1935, The Design of Experiments, section 17.
MAIZE = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]
# Student 1908, as R's data set `sleep`.
SLEEP = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0], [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]

SCORES = st.lists(st.integers(0, 277).map(lambda right: right / 277), min_size=2, max_size=8)


def seeds(scores: list[float], first: int = 0) -> dict[int, float]:
    return dict(enumerate(scores, first))


def test_paired_seeds_give_fishers_and_students_published_values():
    maize = compare_seeds(seeds(MAIZE), seeds([0.0] * 15))
    assert maize.test == "paired t test"
    assert maize.statistic == pytest.approx(2.14799, abs=5e-6)
    assert maize.p == pytest.approx(0.049703, abs=5e-7)
    assert maize.exact_p == 1726 / 32768
    sleep = compare_seeds(seeds(SLEEP[0]), seeds(SLEEP[1]))
    assert (sleep.difference, sleep.degrees, sleep.n) == (pytest.approx(-1.58), 9, (10, 10))
    assert sleep.statistic == pytest.approx(-4.0621, abs=5e-5)
    assert sleep.p == pytest.approx(0.002833, abs=5e-7)


def test_other_seeds_give_welchs_published_values():
    sleep = compare_seeds(seeds(SLEEP[0]), seeds(SLEEP[1], first=100))
    assert sleep.test == "Welch's t test"
    assert sleep.statistic == pytest.approx(-1.8608, abs=5e-5)
    assert sleep.degrees == pytest.approx(17.776, abs=5e-4)
    assert sleep.p == pytest.approx(0.07939, abs=5e-6)
    assert sleep.notes == ("The arms have no seed in common, so their runs are not paired.",)


# scipy warns about equal scores, which are compared all the same.
@pytest.mark.filterwarnings("ignore:Precision loss")
@given(SCORES, SCORES, st.sampled_from([0.9, 0.95, 0.99]), st.sampled_from([0.01, 0.2]))
def test_arms_with_other_seeds_are_compared_as_statsmodels_does(ours, baseline, level, margin):
    found = compare_seeds(seeds(ours), seeds(baseline, 50), level, margin)
    arms = DescrStatsW(ours), DescrStatsW(baseline)
    if np.ptp(ours) == np.ptp(baseline) == 0:
        assert found.p is found.interval is found.equivalent is None
        return
    assert found.p == pytest.approx(stats.ttest_ind(ours, baseline, equal_var=False).pvalue, rel=1e-9)
    expected = CompareMeans(*arms).tconfint_diff(1 - level, usevar="unequal")
    assert found.interval == pytest.approx(expected, rel=1e-9, abs=1e-12)
    equivalence_p = ttost_ind(np.array(ours), np.array(baseline), -margin, margin, usevar="unequal")[0]
    assert found.equivalence_p == pytest.approx(equivalence_p, rel=1e-9, abs=1e-12)


@given(SCORES, st.data(), st.sampled_from([0.9, 0.95, 0.99]), st.sampled_from([0.01, 0.2]))
def test_arms_with_the_same_seeds_are_compared_as_statsmodels_does(ours, data, level, margin):
    baseline = data.draw(st.lists(st.integers(0, 277), min_size=len(ours), max_size=len(ours)))
    differing = np.rint(np.array(ours) * 277) - baseline
    baseline = [right / 277 for right in baseline]
    found = compare_seeds(seeds(ours), seeds(baseline), level, margin)
    if np.ptp(differing) == 0:
        assert found.p is found.interval is found.equivalent is None
        return
    assert found.p == pytest.approx(stats.ttest_rel(ours, baseline).pvalue, rel=1e-9)
    expected = DescrStatsW(np.subtract(ours, baseline)).tconfint_mean(1 - level)
    assert found.interval == pytest.approx(expected, rel=1e-9, abs=1e-12)
    equivalence_p = ttost_paired(np.array(ours), np.array(baseline), -margin, margin)[0]
    assert found.equivalence_p == pytest.approx(equivalence_p, rel=1e-9, abs=1e-12)
    low, high = compare_seeds(seeds(ours), seeds(baseline), 2 * level - 1).interval
    assert found.equivalent == (-margin < low and high < margin)


def test_the_order_of_seeds_does_not_unpair_them():
    ours, baseline = {3: 0.9, 1: 0.7, 2: 0.8}, {1: 0.6, 2: 0.69, 3: 0.81}
    found = compare_seeds(ours, baseline)
    assert found.p == pytest.approx(stats.ttest_rel([0.7, 0.8, 0.9], [0.6, 0.69, 0.81]).pvalue)


def test_swapping_the_arms_changes_only_the_sign():
    ours, baseline = seeds([0.7, 0.72, 0.71]), seeds([0.69, 0.73, 0.68, 0.7])
    there, back = compare_seeds(ours, baseline), compare_seeds(baseline, ours)
    assert there.difference == -back.difference
    assert there.interval == pytest.approx((-back.interval[1], -back.interval[0]))
    assert there.p == back.p


@pytest.mark.parametrize(
    ("num", "sentence"),
    [
        (2, "2 seeds cannot reach p 0.05 by the exact sign-flip test (its least p is 0.5); 6 can."),
        (3, "3 seeds cannot reach p 0.05 by the exact sign-flip test (its least p is 0.25); 6 can."),
        (5, "5 seeds cannot reach p 0.05 by the exact sign-flip test (its least p is 0.0625); 6 can."),
    ],
)
def test_paired_seeds_that_cannot_decide_by_the_exact_test_say_so(num, sentence):
    found = compare_seeds(seeds([0.7 + 0.01 * k for k in range(num)]), seeds([0.6 + 0.003 * k for k in range(num)]))
    assert sentence in found.notes
    assert found.exact_p is None
    assert found.p is not None


def test_six_paired_seeds_have_an_exact_p_and_no_such_sentence():
    found = compare_seeds(seeds([0.7, 0.71, 0.72, 0.74, 0.7, 0.73]), seeds([0.6] * 6))
    assert (found.exact_p, found.exact_test) == (0.03125, "exact sign-flip test")
    assert found.notes == ()


def test_more_seeds_than_the_exact_test_counts_have_no_exact_test():
    found = compare_seeds(seeds([0.7 + 0.01 * k for k in range(41)]), seeds([0.6 + 0.003 * k for k in range(41)]))
    assert (found.exact_p, found.exact_test) == (None, None)


def test_the_sentence_follows_the_level():
    arms = seeds([0.7 + 0.01 * k for k in range(6)]), seeds([0.6 + 0.003 * k for k in range(6)])
    [note] = compare_seeds(*arms, level=0.99).notes
    assert note == "6 seeds cannot reach p 0.01 by the exact sign-flip test (its least p is 0.0312); 8 can."


@pytest.mark.parametrize(("nums", "least"), [((3, 3), "0.1"), ((2, 5), "0.0952")])
def test_unpaired_runs_that_cannot_decide_by_the_exact_test_say_so(nums, least):
    arms = seeds([0.7 + 0.01 * k for k in range(nums[0])]), seeds([0.6 + 0.003 * k for k in range(nums[1])], 20)
    found = compare_seeds(*arms)
    assert found.notes[-1] == (
        f"{nums[0]} against {nums[1]} runs cannot reach p 0.05 by the exact permutation test (its least p is "
        f"{least}); 4 against 4 can."
    )


def test_one_seed_gives_a_difference_and_says_that_it_has_no_test():
    found = compare_seeds({1: 0.7}, {1: 0.6})
    assert found.difference == pytest.approx(0.1)
    assert found.interval is found.p is found.equivalent is None
    assert found.notes == ("1 seed shows no spread among seeds, so there is neither an interval nor a test.",)
    against_many = compare_seeds({1: 0.7}, {1: 0.6, 2: 0.7, 3: 0.5}, equivalence=0.1)
    assert against_many.interval is against_many.p is against_many.equivalent is None
    assert "An arm of 1 run shows no spread" in against_many.notes[-1]


def test_runs_without_a_finite_score_are_named_and_unpair_the_arms():
    ours, baseline = {1: 0.7, 2: math.nan, 3: 0.72, 4: math.inf}, {1: 0.6, 2: 0.61, 3: 0.64, 4: 0.6}
    found = compare_seeds(ours, baseline)
    assert found.n == (2, 4)
    assert found.test == "Welch's t test"
    assert found.notes[0] == (
        "2 of 4 runs of ours have no finite score (seeds 2, 4), so the mean describes the others only."
    )
    both = compare_seeds({1: 0.7, 2: math.nan, 3: 0.72}, {1: 0.6, 2: math.nan, 3: 0.64})
    assert (both.test, both.n) == ("paired t test", (2, 2))


@pytest.mark.parametrize(("ours", "baseline"), [({}, {1: 0.5}), ({1: math.nan}, {1: 0.5}), ({1: 0.5}, {})])
def test_an_arm_without_a_score_has_no_difference(ours, baseline):
    found = compare_seeds(ours, baseline)
    assert found.difference is found.p is found.interval is None
    assert "has a finite score, so there is no difference" in found.notes[-1]


def test_equal_scores_are_no_proof_but_a_hint_that_the_setting_did_nothing():
    found = compare_seeds(seeds([0.7, 0.8, 0.9]), seeds([0.7, 0.8, 0.9]), equivalence=0.01)
    assert found.difference == 0
    assert found.p is found.interval is found.equivalent is None
    assert found.notes[-1] == ("All 3 differences are 0: the setting changed no score, so there is nothing to test.")
    assert compare_seeds(seeds([0.7] * 6), seeds([0.7] * 6)).exact_p == 1.0


def test_differences_that_are_equal_except_for_rounding_have_no_spread():
    ours, baseline = [0.1 + 0.2, 0.7 + 0.1, 0.4], [0.2, 0.7, 0.3]
    assert len(set(np.subtract(ours, baseline))) > 1
    found = compare_seeds(seeds(ours), seeds(baseline))
    assert found.difference == pytest.approx(0.1)
    assert found.p is found.interval is None


@pytest.mark.parametrize("scale", [1e-200, 1e-160, 1e160, 1e300])
@pytest.mark.parametrize("first", [0, 100])
def test_a_p_value_does_not_depend_on_scale(scale, first):
    ours, baseline = np.array([0.7, 0.72, 0.69, 0.75]), np.array([0.69, 0.7, 0.71, 0.66])
    plain = compare_seeds(seeds(ours), seeds(baseline, first))
    scaled = compare_seeds(seeds(scale * ours), seeds(scale * baseline, first))
    assert scaled.p == pytest.approx(plain.p)
    assert scaled.interval == pytest.approx((scale * plain.interval[0], scale * plain.interval[1]))


def test_perfect_scores_in_one_arm_leave_the_interval_to_the_other():
    found = compare_seeds(seeds([1.0] * 4), seeds([0.9, 0.95, 0.93, 0.94], 10))
    assert "All 4 scores of ours are equal, so they show no spread." in found.notes
    assert found.degrees == pytest.approx(3)
    low, high = stats.t.interval(0.95, 3, np.mean([0.1, 0.05, 0.07, 0.06]), stats.sem([0.9, 0.95, 0.93, 0.94]))
    assert found.interval == pytest.approx((low, high))


def test_equivalence_that_is_not_shown_says_so():
    found = compare_seeds(seeds([0.7, 0.72, 0.69]), seeds([0.69, 0.7, 0.71]), equivalence=0.005)
    assert found.equivalent is False
    assert found.notes[-1].endswith("does not lie within ± 0.005, so equivalence is not shown.")
    assert found.notes[-1].startswith("The 90 % interval (")


@pytest.mark.parametrize("margin", [0, -0.1, math.nan, math.inf])
def test_a_margin_that_is_not_positive_is_refused(margin):
    with pytest.raises(InputError, match="margin of equivalence"):
        compare_seeds({1: 1.0, 2: 2.0}, {1: 1.0, 2: 2.5}, equivalence=margin)


@pytest.mark.parametrize("level", [0.05, 1.0, 95, math.nan])
def test_a_level_that_is_none_is_refused(level):
    with pytest.raises(InputError, match="level is"):
        compare_seeds({1: 1.0}, {1: 1.0}, level=level)
    with pytest.raises(InputError, match="level is"):
        mean_interval([1.0, 2.0], level)


@given(SCORES, st.sampled_from([0.9, 0.95, 0.99]))
def test_the_mean_of_an_arm_has_the_t_interval_of_statsmodels(scores, level):
    found = mean_interval(scores, level)
    assert found.value == pytest.approx(np.mean(scores))
    if np.ptp(scores) == 0:
        assert found.interval is None
        assert found.notes == (
            f"All {len(scores)} scores are equal, so they show no spread, and there is no interval.",
        )
    else:
        assert found.interval == pytest.approx(DescrStatsW(scores).tconfint_mean(1 - level), rel=1e-9)


def test_a_mean_counts_the_runs_that_failed():
    found = mean_interval([0.7, math.nan, 0.8, 0.75])
    assert (found.value, found.num) == (pytest.approx(0.75), 3)
    assert found.notes == ("1 of 4 runs has no finite score, so the mean describes the others only.",)
    assert mean_interval([math.nan]).value is None
    assert mean_interval([]).notes == ("No run has a finite score.",)
    assert mean_interval([0.7]).notes == ("1 seed shows no spread among seeds, so there is no interval.",)


def test_tasks_are_averaged_for_each_seed_before_the_test():
    ours = {"rte": {1: 0.6, 2: 0.66, 3: 0.63}, "sst-2": {1: 0.92, 2: 0.9, 3: 0.91}}
    baseline = {"rte": {1: 0.58, 2: 0.6, 3: 0.62}, "sst-2": {1: 0.92, 2: 0.91, 3: 0.9}}
    found = compare_tasks(ours, baseline)
    expected = stats.ttest_rel([0.76, 0.78, 0.77], [0.75, 0.755, 0.76])
    assert found.p == pytest.approx(expected.pvalue)
    assert found.test == "paired t test of the average over tasks"
    assert "Of 2 tasks: 1 won, 1 tied, 0 lost, by their means." in found.notes


def test_a_seed_that_lacks_a_task_is_not_averaged():
    ours = {"rte": {1: 0.6, 2: 0.66, 3: 0.6}, "cola": {1: 0.5, 2: 0.52}}
    found = compare_tasks(ours, {"rte": {1: 0.5, 2: 0.5}, "cola": {1: 0.5, 2: 0.5}})
    assert found.n == (2, 2)
    assert "1 of 3 runs of ours has no finite score (seed 3)" in found.notes[0]
    with pytest.raises(InputError, match="in one arm only: cola"):
        compare_tasks(ours, {"rte": {1: 0.5}})
