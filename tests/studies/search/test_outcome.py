"""The record of a search, compared with a search of known shape and with closed forms."""

import itertools
import statistics

import optuna
import pytest
from scipy import stats

from bert_lightning.studies.search.database import DIRECTORIES, REASON, VALUES
from bert_lightning.studies.search.outcome import (
    best_trial,
    expected_performance,
    importance,
    outcome_of,
    rank_correlations,
)
from bert_lightning.studies.search.settings import Random
from tests.studies.search.synthetic import settings

RATE = optuna.distributions.FloatDistribution(0, 1)


def trial(number: int, value: float | None, state: str = "COMPLETE", **params: float) -> optuna.trial.FrozenTrial:
    made = optuna.trial.create_trial(
        state=optuna.trial.TrialState[state],
        value=value,
        params=params,
        distributions=dict.fromkeys(params, RATE),
        user_attrs={
            VALUES: params,
            DIRECTORIES: [f"runs/{number}"],
            **({REASON: "exploded"} if state == "FAIL" else {}),
        },
    )
    made.number = number
    return made


def test_the_earliest_of_the_best_trials_wins():
    trials = [trial(0, 0.5), trial(1, 0.9), trial(2, None, "FAIL"), trial(3, 0.9), trial(4, 0.1)]
    assert best_trial(settings(), trials).number == 1
    assert best_trial(settings(direction="minimize"), trials).number == 4
    assert best_trial(settings(), trials[2:3]) is None


@pytest.mark.parametrize(("direction", "optimism"), [("maximize", 0.1), ("minimize", -0.1)])
def test_optimism_is_positive_if_fresh_seeds_are_worse_than_the_search_promised(direction, optimism):
    found = outcome_of(settings(direction=direction), [trial(0, 0.9, rate=0.3)], {2: 0.7, 3: 0.9})
    assert found["best"] == {"trial": 0, "values": {"rate": 0.3}, "score": 0.9}
    assert found["confirmation"]["score"] == pytest.approx(0.8)
    assert found["confirmation"]["scores"] == {"2": 0.7, "3": 0.9}
    assert found["confirmation"]["optimism"] == pytest.approx(optimism)
    assert outcome_of(settings(), [trial(0, 0.9)], {})["confirmation"] is None


def test_expected_performance_is_the_mean_best_of_all_subsets_and_failures_count_as_the_worst():
    values = [0.3, 0.9, 0.5]
    trials = [*(trial(n, value) for n, value in enumerate(values)), trial(3, None, "FAIL"), trial(4, 0.7, "RUNNING")]
    for direction, best in (("maximize", max), ("minimize", min)):
        worst = min(values) if direction == "maximize" else max(values)
        counted = [*values, worst]
        found = expected_performance(settings(direction=direction, sampler=Random()), trials)
        assert found["independent"]
        assert found["without_score"] == 1
        assert found["budget"] == [1, 2, 3, 4]
        for budget in found["budget"]:
            subsets = [best(each) for each in itertools.combinations(counted, budget)]
            samples = [best(each) for each in itertools.product(counted, repeat=budget)]
            assert found["tang"][budget - 1] == pytest.approx(statistics.fmean(subsets), abs=1e-12)
            assert found["dodge"][budget - 1] == pytest.approx(statistics.fmean(samples), abs=1e-12)
    assert not expected_performance(settings(), trials)["independent"]
    assert expected_performance(settings(), trials[3:]) is None


def test_the_key_that_decides_the_score_is_the_important_one():
    points = [(n * 0.37 % 1, n * 0.61 % 1) for n in range(30)]
    trials = [trial(n, rate**2 + 0.001 * other, rate=rate, other=other) for n, (rate, other) in enumerate(points)]
    found = importance(settings(), trials)
    assert found["values"]["rate"] > 0.8
    assert sum(found["values"].values()) == pytest.approx(1)
    assert found["best_share"] == pytest.approx(5 / 30)
    correlations = rank_correlations(trials)
    expected = stats.spearmanr([rate for rate, _ in points], [each.values[0] for each in trials]).statistic
    assert correlations["rate"] == pytest.approx(expected)
    assert importance(settings(), trials[:9]) is None
    assert importance(settings(), [trial(n, 0.5, rate=n / 20) for n in range(20)]) is None
    assert rank_correlations([trial(n, 0.5, rate=n / 20) for n in range(20)]) == {}
