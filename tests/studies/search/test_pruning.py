"""Which trials are stopped early, compared with optuna's own loop and with the tests by hand."""

import math
import random

import optuna
import pytest
from scipy import stats

from bert_lightning.studies.search.drawing import view
from bert_lightning.studies.search.pruning import Judge
from bert_lightning.studies.search.settings import Asha, Hyperband, Median, PairedT, Wilcoxon
from bert_lightning.studies.search.trial import Reached, Trial
from tests.studies.search.synthetic import settings

NUM_STEPS = 9


def curve(number: int) -> list[tuple[int, float]]:
    generator = random.Random(number)
    final = generator.random()
    return [(step, final * (1 - 0.7**step) + 0.1 * generator.random()) for step in range(1, NUM_STEPS + 1)]


def ended(judge: Judge, value: float | None) -> optuna.trial.FrozenTrial:
    """Return a trial as the database would keep it after its verdict."""
    heard = judge.heard
    state = optuna.trial.TrialState.PRUNED if value is None else optuna.trial.TrialState.COMPLETE
    return optuna.trial.create_trial(
        state=state,
        value=list(heard.intermediate_values.values())[-1] if value is None else value,
        intermediate_values=heard.intermediate_values,
        system_attrs=heard.system_attrs,
    )


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (Median(startup_trials=3, warmup_steps=2), optuna.pruners.MedianPruner(3, 2)),
        (Asha(min_steps=2, reduction_factor=2), optuna.pruners.SuccessiveHalvingPruner(2, 2)),
        (Hyperband(min_steps=1, max_steps=9, reduction_factor=3), optuna.pruners.HyperbandPruner(1, 9, 3)),
    ],
)
def test_trials_are_stopped_where_an_uninterrupted_loop_of_optuna_stops_them(ours, theirs):
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    reference = optuna.create_study(study_name="try", direction="maximize", pruner=theirs)

    def objective(trial: optuna.Trial) -> float:
        for step, value in curve(trial.number):
            trial.report(value, step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return value

    reference.optimize(objective, n_trials=30)
    trials: list[optuna.trial.FrozenTrial] = []
    for number in range(30):
        judge = Judge(settings(pruner=ours), "try", trials)
        scores = curve(number)
        # The scores arrive in pieces, as the file of metrics grows.
        pruned = any(judge.hear(scores[:seen]) for seen in (1, 1, 4, 5, NUM_STEPS))
        trials.append(ended(judge, None if pruned else scores[-1][1]))
    assert [(each.state, each.intermediate_values) for each in trials] == [
        (each.state, each.intermediate_values) for each in reference.trials
    ]
    assert 3 < sum(each.state.name == "PRUNED" for each in trials) < 28


def test_a_verdict_does_not_depend_on_how_much_was_trained_before_it_was_read():
    chosen = settings(pruner=Median(startup_trials=1))
    best = optuna.trial.create_trial(value=1.0, intermediate_values=dict.fromkeys(range(1, 10), 0.5))
    scores = [(step, 0.9 if step < 4 else 0.1) for step in range(1, 10)]
    # A median pruner compares the best value so far, so a late fall does not count, and a bad start does.
    bad = [(step, 0.1 if step < 4 else 0.9) for step in range(1, 10)]
    for known in (scores, bad):
        step_by_step, at_once = (Judge(chosen, "try", [best]) for _ in range(2))
        verdicts = [step_by_step.hear(known[:num]) for num in range(10)]
        assert at_once.hear(known) == verdicts[-1]
        assert at_once.heard.intermediate_values == step_by_step.heard.intermediate_values
    assert at_once.heard.intermediate_values == {1: 0.1}


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_seeds_are_saved_when_a_paired_test_finds_them_worse(direction):
    sign = 1 if direction == "maximize" else -1
    generator = random.Random(3)
    seeds = [1, 2, 3, 4, 5, 6]
    best = {number: sign * generator.gauss(0.8, 0.05) for number in range(6)}
    before = [optuna.trial.create_trial(value=sum(best.values()) / 6, intermediate_values=best)]
    num_stopped = 0
    for shift in (-0.3, -0.1, -0.05, 0.0, 0.1):
        for pruner in (PairedT(p=0.05), Wilcoxon(p=0.1)):
            trial = Trial(settings(pruner=pruner, seeds=seeds, direction=direction), "try", before)
            scores = [value + sign * (shift + generator.gauss(0, 0.03)) for value in best.values()]
            runs = [Reached("waiting") for _ in seeds]
            for number in range(6):
                advice = trial.advance(runs)
                gains = [sign * (scores[each] - best[each]) for each in range(number)]
                if isinstance(pruner, PairedT):
                    p = stats.ttest_1samp(gains, 0, alternative="less").pvalue if number > 1 else 1
                else:
                    p = stats.wilcoxon(gains, alternative="less").pvalue if number > 1 else 1
                if p < pruner.p and math.fsum(gains) < 0:
                    assert advice.ended
                    assert advice.outcome is None
                    num_stopped += 1
                    break
                assert advice.train == (number,), "the seeds train in turn"
                runs[number] = Reached("finished", score=scores[number])
            else:
                assert trial.advance(runs).outcome == pytest.approx(sum(scores) / 6, abs=1e-12)
                assert len(trial.heard.intermediate_values) == 6
    assert 2 < num_stopped < 9


def test_equal_differences_show_no_spread_so_a_paired_test_stops_nothing():
    best = optuna.trial.create_trial(value=0.5, intermediate_values={0: 0.5, 1: 0.25})
    for scores in ([0.25, 0.0], [0.75, 0.5], [0.5, 0.25], [0.49, 0.24], [0.5 - 9 / 872, 0.25 - 9 / 872]):
        judge = Judge(settings(pruner=PairedT(), seeds=3), "try", [best])
        assert not judge.hear(list(enumerate(scores)))


def test_a_trial_trains_all_seeds_at_once_without_a_pruner_and_counts_their_mean():
    trial = Trial(settings(seeds=3), "try", [])
    assert trial.advance([Reached("waiting")] * 3).train == (0, 1, 2)
    runs = [Reached("finished", score=score) for score in (0.1, 0.2, 0.6)]
    assert trial.advance([runs[0], Reached("running"), runs[2]]).train == (1,)
    assert trial.advance(runs).outcome == pytest.approx(0.3)
    assert trial.heard is None


def test_the_first_seed_alone_is_judged_over_steps_and_the_others_follow_if_it_survives():
    trial = Trial(settings(seeds=3, pruner=Median(startup_trials=1)), "try", [])
    waiting = Reached("waiting")
    assert trial.advance([waiting] * 3).train == (0,)
    assert trial.advance([Reached("finished", [(1, 0.5)], 0.5), waiting, waiting]).train == (1, 2)
    best = optuna.trial.create_trial(value=1.0, intermediate_values={1: 0.9})
    worse = Trial(settings(seeds=3, pruner=Median(startup_trials=1)), "try", [best])
    advice = worse.advance([Reached("running", [(1, 0.5)]), waiting, waiting])
    assert (advice.ended, advice.outcome) == (True, None)


@pytest.mark.parametrize("score", [math.nan, math.inf, None])
def test_a_run_without_a_finite_score_makes_its_trial_fail_with_its_seed(score):
    trial = Trial(settings(seeds=[4, 7]), "try", [])
    advice = trial.advance([Reached("waiting"), Reached("finished", score=score)])
    assert advice.ended
    assert advice.outcome == f"seed 7: val/accuracy is {score}"
    failed = trial.advance([Reached("failed", message="loss is NaN"), Reached("running")])
    assert failed.outcome == "seed 4: loss is NaN"


def test_a_trial_sees_only_what_its_draw_has_seen():
    trials = [optuna.trial.create_trial(value=float(number)) for number in range(5)]
    seen = view(settings(at_once=3), "try", trials).trials
    assert [each.state.name for each in seen] == ["COMPLETE"] * 3 + ["RUNNING"] * 2
