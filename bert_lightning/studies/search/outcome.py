"""Outcome of a search: the best trial, its score with fresh seeds, and the expected score of smaller budgets."""

import math
import statistics
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bert_lightning.studies.search.database import DIRECTORIES, REASON, VALUES
from bert_lightning.studies.search.settings import Random, SearchSettings

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

_STATES = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}
# How many of the best trials PED-ANOVA compares with all trials, at least; its authors advise five or more.
_BEST_TRIALS = 5


def best_trial(settings: SearchSettings, trials: "Sequence[FrozenTrial]") -> "FrozenTrial | None":
    """Return the complete trial with the best score, the first of equal ones; None if no trial is complete."""
    complete = [trial for trial in trials if trial.state.name == "COMPLETE"]
    return max(complete, key=lambda trial: _sign(settings) * trial.values[0], default=None)


def outcome_of(
    settings: SearchSettings, trials: "Sequence[FrozenTrial]", fresh: Mapping[int, float]
) -> dict[str, Any]:
    """Return the results of a search as values for JSON, for the record of the study.

    Args:
        settings: the search.
        trials: all trials in the order of their numbers.
        fresh: seed -> score of the best trial, for seeds that had no part in choosing it.

    Returns:
        `trials`; `best` (None without a complete trial); `confirmation` with the fresh scores, their mean `score`,
        and `optimism`, by how much the score in the search is better than that mean; `expected_performance`;
        `importance`; and `rank_correlation`.
    """
    best = best_trial(settings, trials)
    found = None
    if best is not None:
        found = {"trial": best.number, "values": best.user_attrs[VALUES], "score": best.values[0]}
    confirmation = None
    if found is not None and fresh:
        score = statistics.fmean(fresh.values())
        optimism = _sign(settings) * (found["score"] - score)
        confirmation = {"scores": {str(seed): value for seed, value in fresh.items()}, "score": score}
        confirmation["optimism"] = optimism
    return {
        "trials": [_described(trial) for trial in trials],
        "best": found,
        "confirmation": confirmation,
        "expected_performance": expected_performance(settings, trials),
        "importance": importance(settings, trials),
        "rank_correlation": rank_correlations(trials),
    }


def expected_performance(settings: SearchSettings, trials: "Sequence[FrozenTrial]") -> dict[str, Any] | None:
    """Return the expected best score of each smaller budget of trials; None before the first complete trial.

    `tang` and `dodge` are the estimators of Tang et al. (2020) and Dodge et al. (2019), see `expected_maximum`. A
    trial that failed or was stopped early counts with the worst score of the complete trials, because leaving it out
    would flatter the search.
    """
    from bert_lightning.studies.statistics import expected_maximum

    sign = _sign(settings)
    ended = [trial for trial in trials if trial.state.is_finished()]
    scores = [sign * trial.values[0] for trial in ended if trial.state.name == "COMPLETE"]
    if not scores:
        return None
    num_without = len(ended) - len(scores)
    scores += [min(scores)] * num_without
    budgets = range(1, len(scores) + 1)
    return {
        # The estimators hold only for independent draws.
        "independent": isinstance(settings.sampler, Random),
        "without_score": num_without,
        "budget": list(budgets),
        "tang": [sign * expected_maximum(scores, budget) for budget in budgets],
        "dodge": [sign * expected_maximum(scores, budget, replacement=True) for budget in budgets],
    }


def importance(settings: SearchSettings, trials: "Sequence[FrozenTrial]") -> dict[str, Any] | None:
    """Return how important each key was for being among the best trials, by PED-ANOVA (Watanabe et al. 2023).

    It is None with fewer than ten complete trials, or if all of them have the same score.
    """
    import optuna
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    complete = [trial for trial in trials if trial.state.name == "COMPLETE"]
    if len(complete) < 2 * _BEST_TRIALS or len({trial.values[0] for trial in complete}) == 1:
        return None
    share = max(0.1, _BEST_TRIALS / len(complete))
    study = optuna.create_study(direction=settings.direction)
    study.add_trials(complete)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        values = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator(target_quantile=share))
    return {"method": "PED-ANOVA", "best_share": share, "values": {key: float(each) for key, each in values.items()}}


def rank_correlations(trials: "Sequence[FrozenTrial]") -> dict[str, float]:
    """Return Spearman's correlation between the values of each range and the scores, over complete trials."""
    from scipy.stats import spearmanr

    complete = [trial for trial in trials if trial.state.name == "COMPLETE"]
    found = {}
    for name in dict.fromkeys(name for trial in complete for name in trial.params):
        drawn = [(trial.params[name], trial.values[0]) for trial in complete if name in trial.params]
        if len(drawn) < 3 or any(isinstance(value, bool) or not isinstance(value, int | float) for value, _ in drawn):
            continue
        with warnings.catch_warnings():
            # scipy warns if all values are equal.
            warnings.simplefilter("ignore")
            correlation = float(spearmanr(*zip(*drawn, strict=True)).statistic)
        if math.isfinite(correlation):
            found[name] = correlation
    return found


def _described(trial: "FrozenTrial") -> dict[str, Any]:
    return {
        "trial": trial.number,
        "values": trial.user_attrs[VALUES],
        "state": _STATES.get(trial.state.name, "running"),
        "score": trial.values[0] if trial.state.name == "COMPLETE" else None,
        "message": trial.user_attrs.get(REASON),
        "runs": trial.user_attrs[DIRECTORIES],
    }


def _sign(settings: SearchSettings) -> float:
    return 1.0 if settings.direction == "maximize" else -1.0
