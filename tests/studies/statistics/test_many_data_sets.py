"""Comparison over many data sets, with the worked example of Demsar 2006, and scipy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bert_lightning.errors import InputError
from bert_lightning.studies.statistics import critical_distance, friedman, holm, signed_ranks

# Demsar 2006, table 6: AUC of C4.5, C4.5+m, C4.5+cf, C4.5+m+cf. The paper prints .975 twice in the row before the
# last and ranks the two apart, which a further digit does here.
AUC = np.array(
    [
        [0.763, 0.768, 0.771, 0.798],
        [0.599, 0.591, 0.590, 0.569],
        [0.954, 0.971, 0.968, 0.967],
        [0.628, 0.661, 0.654, 0.657],
        [0.882, 0.888, 0.886, 0.898],
        [0.936, 0.931, 0.916, 0.931],
        [0.661, 0.668, 0.609, 0.685],
        [0.583, 0.583, 0.563, 0.625],
        [0.775, 0.838, 0.866, 0.875],
        [1.000, 1.000, 1.000, 1.000],
        [0.940, 0.962, 0.965, 0.962],
        [0.619, 0.666, 0.614, 0.669],
        [0.972, 0.981, 0.9751, 0.975],
        [0.957, 0.978, 0.946, 0.970],
    ]
)
TENTHS = st.integers(0, 9).map(lambda number: number / 10)


def test_signed_ranks_give_demsars_published_values():
    found = signed_ranks(AUC[:, 1] - AUC[:, 0])
    assert (found.positive, found.negative, found.num) == (93, 12, 14)
    assert found.z == pytest.approx(-2.54, abs=5e-3)
    assert found.notes == ()


@given(st.lists(st.tuples(TENTHS, TENTHS), min_size=2, max_size=25))
def test_signed_ranks_are_those_of_scipy(pairs):
    ours, baseline = np.array(pairs).T
    found = signed_ranks(ours - baseline)
    whole = np.rint(10 * ours) - np.rint(10 * baseline)
    if not whole.any():
        assert (found.p, found.z) == (1, None)
        return
    expected = stats.wilcoxon(whole, zero_method="zsplit", method="approx", correction=False)
    assert min(found.positive, found.negative) == expected.statistic
    assert 2 * stats.norm.cdf(found.z) == pytest.approx(expected.pvalue)
    if len(set(np.abs(whole))) == len(whole) and whole.all():
        assert found.p == pytest.approx(stats.wilcoxon(whole, method="exact").pvalue)


def test_few_data_sets_say_what_they_cannot_show():
    found = signed_ranks([0.1, 0.2, 0.3, 0.4, 0.0])
    assert found.p == 0.125
    assert found.notes == (
        "4 data sets that differ cannot reach p 0.05 (the least p is 0.125); 6 can; Demsar asks for 10.",
    )
    assert signed_ranks([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]).p == 0.03125
    with pytest.raises(InputError, match="not finite"):
        signed_ranks([0.1, float("nan")])


def test_friedmans_test_gives_demsars_published_values():
    found = friedman(AUC, ties=False)
    assert found.mean_ranks == pytest.approx((3.143, 2.000, 2.893, 1.964), abs=5e-4)
    assert found.chi_square == pytest.approx(9.28, abs=5e-3)
    assert found.f == pytest.approx(3.69, abs=5e-3)
    assert found.degrees == (3, 39)


@settings(max_examples=40)
@given(st.lists(st.tuples(TENTHS, TENTHS, TENTHS), min_size=3, max_size=12))
def test_friedmans_statistic_is_that_of_scipy_and_f_that_of_variance_analysis(rows):
    scores = np.array(rows)
    found = friedman(scores)
    ranks = stats.rankdata(-scores, axis=1)
    if not (ranks - 2).any():
        assert (found.chi_square, found.p) == (0, 1)
        return
    assert found.chi_square == pytest.approx(stats.friedmanchisquare(*scores.T).statistic, abs=1e-9)
    # Analysis of variance of the ranks in two ways: the data sets all have the mean rank 2.
    between = len(rows) * ((ranks.mean(axis=0) - 2) ** 2).sum()
    within = ((ranks - 2) ** 2).sum() - between
    if within > 1e-9:
        f = (between / 2) / (within / (2 * (len(rows) - 1)))
        assert found.f == pytest.approx(f, abs=1e-9)
        assert found.p == pytest.approx(stats.f.sf(f, 2, 2 * (len(rows) - 1)))
    else:
        assert (found.f, found.p) == (float("inf"), 0)


def test_pairs_of_arms_are_compared_by_signed_ranks_with_holms_correction():
    found = friedman(AUC)
    pairs = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    expected = holm([signed_ranks(AUC[:, first] - AUC[:, second]).p for first, second in pairs])
    assert list(found.pairs.items()) == list(zip(pairs, expected, strict=True))


def test_critical_distances_are_those_that_demsar_published():
    assert critical_distance(4, 14) == pytest.approx(1.25, abs=5e-3)
    assert critical_distance(4, 14, 0.9) == pytest.approx(1.12, abs=5e-3)
    standard_error = (4 * 5 / (6 * 14)) ** 0.5
    assert standard_error == pytest.approx(0.488, abs=5e-4)
    # Table 5 of the paper: q of 2 to 10 arms, Nemenyi and Bonferroni-Dunn.
    nemenyi = [1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164]
    dunn = [1.960, 2.241, 2.394, 2.498, 2.576, 2.638, 2.690, 2.724, 2.773]
    for arms, (q_nemenyi, q_dunn) in enumerate(zip(nemenyi, dunn, strict=True), 2):
        unit = (arms * (arms + 1) / (6 * 20)) ** 0.5
        assert critical_distance(arms, 20) / unit == pytest.approx(q_nemenyi, abs=1.1e-3)
        # 2.724 is a misprint of 2.7337 (nine arms).
        if arms != 9:
            assert critical_distance(arms, 20, test="bonferroni-dunn") / unit == pytest.approx(q_dunn, abs=1.1e-3)


def test_what_cannot_be_ranked_is_refused():
    with pytest.raises(InputError, match="at least 2 and 3"):
        friedman([[0.1, 0.2], [0.3, 0.4]])
    with pytest.raises(InputError, match="shape"):
        friedman([0.1, 0.2])
    with pytest.raises(InputError, match="known: nemenyi"):
        critical_distance(3, 5, test="tukey")
    with pytest.raises(InputError, match="at least 2 of each"):
        critical_distance(1, 5)
