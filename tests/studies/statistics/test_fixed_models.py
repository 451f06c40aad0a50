"""Comparison of two fixed models, compared with statsmodels, scipy, published examples and enumeration."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats import contingency_tables

from bert_lightning.errors import InputError
from bert_lightning.metrics import matthews, spearman
from bert_lightning.studies.statistics import (
    ACCURACY,
    F1,
    MACRO_F1,
    MATTHEWS,
    MEAN,
    approximate_randomisation,
    bootstrap_examples,
    compare_models,
    confusion_counts,
    item_counts,
    mcnemar,
)

# Efron and Tibshirani 1993, table 14.1: the spatial test data, of which the variance is estimated.
SPATIAL = [48, 36, 20, 29, 42, 42, 20, 42, 22, 41, 45, 14, 6, 0, 33, 28, 34, 4, 32, 24, 47, 41, 24, 26, 30, 41]
LABELS = st.sampled_from(["a", "b", "c"])


def answers(both: int, ours: int, baseline: int, neither: int) -> tuple[list[int], list[int]]:
    right = [1] * both + [1] * ours + [0] * baseline + [0] * neither
    return right, [1] * both + [0] * ours + [1] * baseline + [0] * neither


def test_mcnemar_gives_agrestis_published_values():
    # Agresti, Categorical Data Analysis, table 10.1: 86 and 150 of 1,600 changed their minds.
    found = mcnemar(*answers(794, 150, 86, 570))
    assert found.statistic == pytest.approx(17.356, abs=5e-4)
    assert found.p == pytest.approx(3.716e-05, abs=5e-9)
    assert found.difference == 64 / 1600


@given(st.integers(0, 20), st.integers(0, 20), st.integers(0, 20), st.integers(1, 20))
def test_mcnemar_is_that_of_statsmodels(both, ours, baseline, neither):
    found = mcnemar(*answers(both, ours, baseline, neither))
    table = [[both, ours], [baseline, neither]]
    assert found.p == pytest.approx(contingency_tables.mcnemar(table, exact=True).pvalue)
    low, high = found.interval
    assert -1 <= low < found.difference + 1e-12
    assert found.difference - 1e-12 < high <= 1


@pytest.mark.parametrize(("better", "worse"), [(0.05, 0.05), (0.3, 0.1), (0.02, 0.0), (0.45, 0.5)])
def test_the_interval_of_a_difference_of_accuracies_covers_it(better, worse):
    num, covered = 30, 0.0
    for first, second in product(range(num + 1), repeat=2):
        if first + second <= num:
            chance = stats.multinomial.pmf(
                [first, second, num - first - second], num, [better, worse, 1 - better - worse]
            )
            if chance > 1e-7:
                low, high = mcnemar(*answers(0, first, second, num - first - second)).interval
                covered += chance * (low <= better - worse <= high)
    assert 0.935 < covered <= 1


def test_models_that_agree_on_every_example_have_p_1_and_an_interval_that_is_not_empty():
    found = mcnemar([1, 1, 0, 1], [1, 1, 0, 1])
    assert (found.difference, found.p, found.statistic) == (0, 1, 0)
    assert found.interval[0] < 0 < found.interval[1]


@pytest.mark.parametrize("answers", [[1, 0, 2], [1, 0, 0.5]])
def test_mcnemar_refuses_what_is_neither_right_nor_wrong(answers):
    with pytest.raises(InputError, match="other values than 1"):
        mcnemar(answers, [1, 0, 1])


def test_randomisation_of_few_examples_is_that_of_all_exchanges():
    generator = np.random.default_rng(3)
    ours, baseline = generator.integers(0, 4, (2, 9, 3)).astype(float)
    seen = abs(F1(ours) - F1(baseline))
    count = 0
    for exchange in product((False, True), repeat=9):
        mask = np.array(exchange)[:, None]
        count += abs(F1(np.where(mask, baseline, ours)) - F1(np.where(mask, ours, baseline))) >= seen - 1e-12
    exact = count / 2**9
    found = approximate_randomisation(ours, baseline, F1, resamples=20_000)
    assert abs(found.p - exact) < 4 * (exact * (1 - exact) / 20_000) ** 0.5
    assert found.difference == pytest.approx(F1(ours) - F1(baseline))


def test_randomisation_of_accuracy_agrees_with_mcnemar():
    models = answers(50, 12, 4, 20)
    found = approximate_randomisation(*models, ACCURACY, resamples=40_000)
    exact = mcnemar(*models).p
    assert abs(found.p - exact) < 4 * (exact / 40_000) ** 0.5


def test_a_p_value_of_randomisation_is_never_zero():
    assert approximate_randomisation(np.ones(200), np.zeros(200), MEAN, resamples=100).p == 1 / 101


def test_efrons_published_bca_interval_is_reached():
    found = bootstrap_examples(SPATIAL, None, lambda rows: float(rows.var()), level=0.9, resamples=20_000)
    assert found.value == pytest.approx(171.534, abs=5e-4)
    # With 2,000 resamples, the book has (115.8, 259.6).
    assert found.interval == pytest.approx((115.8, 259.6), abs=4)


@pytest.mark.parametrize("compressed", [True, False])
def test_the_bootstrap_of_a_mean_is_that_of_scipy(compressed):
    generator = np.random.default_rng(1)
    values = generator.poisson(1, 300).astype(float) if compressed else generator.exponential(size=300)
    found = bootstrap_examples(values, resamples=10_000)
    expected = stats.bootstrap(
        (values,), np.mean, method="BCa", n_resamples=10_000, random_state=2
    ).confidence_interval
    # Both ends are quantiles of 10,000 draws, known to 0.027 standard errors. Means of counts are multiples of 1/300.
    error = 0.13 * values.std() / 300**0.5 + (1 / 300 if compressed else 0)
    assert found.interval == pytest.approx(tuple(expected), abs=error)


def test_a_score_of_means_and_any_other_function_are_resampled_alike():
    generator = np.random.default_rng(5)
    ours, baseline = generator.integers(0, 3, (2, 60, 3)).astype(float)
    groups = [number // 3 for number in range(60)]
    for chosen in (None, groups):
        fast = bootstrap_examples(ours, baseline, F1, groups=chosen, resamples=20_000)
        slow = bootstrap_examples(ours, baseline, lambda rows: F1(rows), groups=chosen, resamples=4_000)
        assert fast.value == pytest.approx(slow.value)
        width = fast.interval[1] - fast.interval[0]
        assert slow.interval == pytest.approx(fast.interval, abs=0.06 * width)
        tests = [
            approximate_randomisation(ours, baseline, score, groups=chosen, resamples=4_000).p
            for score in (F1, lambda rows: F1(rows))
        ]
        assert tests[0] == pytest.approx(tests[1], abs=4 * (0.5 / 4_000) ** 0.5)


def test_sentences_of_one_document_are_drawn_together():
    # Ten documents of twenty equal sentences: the spread of a mean is that of ten, not of two hundred.
    documents = np.repeat(np.arange(10) % 2.0, 20)
    alone = bootstrap_examples(documents)
    together = bootstrap_examples(documents, groups=np.repeat(np.arange(10), 20).tolist())
    widths = [high - low for low, high in (alone.interval, together.interval)]
    assert widths[1] > 4 * widths[0]
    assert together.method == "BCa bootstrap over documents"
    assert "A bootstrap over 10 documents gives an interval that is too narrow." in together.notes


def test_the_generator_is_its_own():
    values = np.random.default_rng(0).random(100)
    np.random.seed(1)
    first = bootstrap_examples(values)
    np.random.seed(2)
    assert bootstrap_examples(values) == first
    assert bootstrap_examples(values, seed=1) != first


def test_perfect_scores_have_no_bootstrap_interval_and_say_why():
    found = bootstrap_examples([1.0] * 30, score=ACCURACY)
    assert found.interval is None
    assert "All resampled examples give the same value, so there is no interval." in found.notes
    single = bootstrap_examples([0.7], [0.5])
    assert (single.value, single.interval) == (pytest.approx(0.2), None)
    assert single.notes[1:] == found.notes[1:]


def test_right_and_wrong_answers_are_compared_by_mcnemar_and_all_else_by_randomisation():
    models = answers(30, 8, 2, 10)
    assert compare_models(*models) == mcnemar(*models)
    documents = compare_models(*models, groups=[number // 5 for number in range(50)])
    assert documents.test == "approximate randomisation"
    assert documents.interval[0] < 0.12 < documents.interval[1]
    scores = compare_models(np.linspace(0, 1, 40), np.linspace(0.1, 0.9, 40) ** 2)
    assert scores.test == "approximate randomisation"
    assert scores.interval is not None
    assert "says nothing about the procedures" in scores.notes[0]
    ranked = np.random.default_rng(0).random((2, 40, 2)).round(1)
    by_rank = compare_models(*ranked, lambda rows: spearman(rows[:, 0], rows[:, 1]))
    assert by_rank.difference == pytest.approx(spearman(*ranked[0].T) - spearman(*ranked[1].T))


@given(st.lists(st.tuples(LABELS, LABELS), min_size=1, max_size=30))
def test_scores_of_means_are_those_of_the_metrics_room(pairs):
    gold, predicted = map(list, zip(*pairs, strict=True))
    rows = confusion_counts(gold, predicted, ["a", "b", "c"])
    matrix = rows.sum(axis=0).reshape(3, 3)
    assert MATTHEWS(rows) == pytest.approx(matthews(matrix), abs=1e-12)
    each = []
    for label in "abc":
        right = sum(g == p == label for g, p in pairs)
        named = sum((g == label) + (p == label) for g, p in pairs)
        each.append(2 * right / named if named else 0.0)
    assert MACRO_F1(rows) == pytest.approx(np.mean(each))
    counted = item_counts([{g} for g in gold], [{p} for p in predicted])
    assert F1(counted) == pytest.approx(np.mean([g == p for g, p in pairs]))


def test_a_constant_prediction_has_no_correlation_however_the_means_are_rounded():
    generator = np.random.default_rng(0)
    for num in range(2, 200):
        gold = generator.integers(0, 5, num).tolist()
        assert MATTHEWS(confusion_counts(gold, [3] * num, range(5))) == 0


def test_two_models_must_have_the_same_examples():
    with pytest.raises(InputError, match="same examples"):
        compare_models([0.1, 0.2], [0.1, 0.2, 0.3])
    with pytest.raises(InputError, match="2 examples, the baseline 3"):
        mcnemar([1, 0], [1, 0, 1])
    with pytest.raises(InputError, match="1 groups and 2 examples"):
        compare_models([0.1, 0.2], [0.1, 0.3], groups=["a"])
    with pytest.raises(InputError, match="not finite in 1 of 2 examples"):
        compare_models([0.1, float("nan")], [0.1, 0.3])
    with pytest.raises(InputError, match="not empty"):
        compare_models([], [])
    with pytest.raises(InputError, match="F1 needs 3 numbers per example"):
        compare_models([0.1, 0.2], [0.1, 0.3], F1)
    with pytest.raises(InputError, match="must be a square"):
        compare_models(np.ones((3, 3)), np.zeros((3, 3)), MATTHEWS)
    with pytest.raises(InputError, match="at least 100"):
        bootstrap_examples([0.1, 0.2], resamples=10)
    with pytest.raises(InputError, match="not finite"):
        bootstrap_examples([0.1, 0.2], score=lambda rows: float("nan"))
    with pytest.raises(InputError, match="'x' is not one of"):
        confusion_counts(["x"], ["a"], ["a", "b"])
    with pytest.raises(InputError, match="1 gold answers and 2"):
        item_counts([{1}], [{1}, {2}])
