"""The importance of each key of a search: how much of the differences between trials goes with it."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from bert_lightning.reports.figures.scales import is_logarithmic
from bert_lightning.reports.figures.search import Trial, as_number

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

# With fewer trials the best ones are too few to have a distribution.
FEWEST_TRIALS = 12
# The fraction of trials that count as good.
_GOOD = 0.25


def importances(trials: Sequence[Trial], better: str) -> dict[str, float]:
    """Return the importance of each key, from 0 to 1; empty if there are too few trials, or optuna is missing.

    It is that of PED-ANOVA (Watanabe et al. 2023, arXiv:2304.10255), as optuna computes it: how far the values of
    the good trials, here the best quarter, differ from those of all.
    """
    scored = [trial for trial in trials if trial.score is not None and math.isfinite(trial.score)]
    keys = [key for key in (scored[0].values if scored else ()) if all(key in trial.values for trial in scored)]
    distributions = {key: _distribution([trial.values[key] for trial in scored]) for key in keys} if keys else {}
    known = {key: distribution for key, distribution in distributions.items() if distribution is not None}
    if len(scored) < FEWEST_TRIALS or len(known) < 2:
        return {}
    return _of_optuna(scored, known, better)


def _of_optuna(
    trials: Sequence[Trial], distributions: "Mapping[str, BaseDistribution]", better: str
) -> dict[str, float]:
    import optuna
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        study = optuna.create_study(direction="maximize" if better == "max" else "minimize")
        for trial in trials:
            values = {key: _value(trial.values[key]) for key in distributions}
            study.add_trial(
                optuna.trial.create_trial(params=values, distributions=dict(distributions), value=trial.score)
            )
        found = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator(target_quantile=_GOOD))
    finally:
        optuna.logging.set_verbosity(before)
    return {key: float(value) for key, value in found.items() if math.isfinite(value)}


def _distribution(values: Sequence[object]) -> "BaseDistribution | None":
    """Return the range of a key as the trials drew it; None if they all drew the same value, or optuna is missing."""
    try:
        from optuna.distributions import CategoricalDistribution, FloatDistribution
    except ImportError:
        return None
    numbers = [as_number(value) for value in values]
    if all(number is not None for number in numbers):
        known = [number for number in numbers if number is not None]
        if max(known) == min(known):
            return None
        return FloatDistribution(min(known), max(known), log=is_logarithmic(known))
    choices = tuple(dict.fromkeys(str(value) for value in values))
    return CategoricalDistribution(choices) if len(choices) > 1 else None


def _value(value: object) -> float | str:
    number = as_number(value)
    return str(value) if number is None else number
