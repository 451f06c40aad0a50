"""The draws of a search, as a pure function of the scores of earlier trials.

A sampler that lasts for a whole search has a state, which a kill would lose. Here each trial has its own sampler,
whose seed is derived from the seed of the search and the number of the trial. So a search that was stopped and
continued has the same draws as one that was not stopped.

The draws do not depend on the order in which trials end, either. With n trials at once, trial k is drawn only from
the scores of trials 0 to k - n. Later trials count as running, even if they have ended.
"""

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bert_lightning.data.loading.randomness import derive_key
from bert_lightning.errors import InputError
from bert_lightning.studies.search.settings import (
    Asha,
    GaussianProcess,
    Hyperband,
    Median,
    PairedT,
    QuasiRandom,
    Random,
    SearchSettings,
    Wilcoxon,
)
from bert_lightning.studies.search.space import Space

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial


@dataclass(frozen=True)
class Draw:
    """A drawn trial.

    Attributes:
        trial: the trial in the form for the database: running, with its parameters.
        values: dotted key -> drawn value.
    """

    trial: "FrozenTrial"
    values: dict[str, object]


def require_optuna() -> None:
    """Check that optuna and scipy are installed, and silence optuna's own messages.

    Raises:
        InputError: one of them is missing. The message names the extra that installs them.
    """
    try:
        import optuna
        import scipy  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"search needs {error.name}, which the extra studies installs: pip install 'bert_lightning[studies]'"
        ) from None
    optuna.logging.set_verbosity(logging.ERROR)
    # optuna marks its Wilcoxon pruner and its multivariate TPE sampler as experimental.
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


def draw(settings: SearchSettings, space: Space, name: str, before: "Sequence[FrozenTrial]") -> Draw:
    """Draw the next trial.

    Args:
        settings: the search.
        space: the space of the search.
        name: name of the search, on which the brackets of Hyperband depend.
        before: all earlier trials, in the order of their numbers. The first `num_needed` of them have ended.
    """
    trial = view(settings, name, before).ask()
    values = space.suggest(trial)
    return Draw(_as_just_begun(trial.study.trials[trial.number]), values)


def num_needed(settings: SearchSettings, number: int) -> int:
    """Return how many of the first trials must have ended before a trial is drawn. Only their scores count."""
    return max(0, number + 1 - (settings.at_once or 1))


def view(settings: SearchSettings, name: str, before: "Sequence[FrozenTrial]") -> "optuna.Study":
    """Return an optuna study in memory for the next trial, with its sampler, its pruner and the earlier trials."""
    import optuna

    study = optuna.create_study(
        study_name=name,
        direction=settings.direction,
        sampler=_sampler(settings, len(before)),
        pruner=_pruner(settings),
    )
    seen = num_needed(settings, len(before))
    assert all(trial.state.is_finished() for trial in before[:seen]), "a trial is drawn too early"
    study.add_trials([*before[:seen], *map(_as_just_begun, before[seen:])])
    return study


def _as_just_begun(trial: "FrozenTrial") -> "FrozenTrial":
    """Return a running trial with the same parameters, without the scores so far, which depend on the moment."""
    from optuna.trial import TrialState, create_trial

    return create_trial(state=TrialState.RUNNING, params=trial.params, distributions=trial.distributions)


def _sampler(settings: SearchSettings, number: int) -> "optuna.samplers.BaseSampler":
    import optuna

    kind = settings.sampler
    if isinstance(kind, QuasiRandom):
        from bert_lightning.studies.search.halton import HaltonSampler

        return HaltonSampler(settings.seed, number)
    # numpy's generators take seeds of 32 bits.
    seed = derive_key("trial", settings.seed, number) % 2**32
    if isinstance(kind, Random):
        return optuna.samplers.RandomSampler(seed=seed)
    if isinstance(kind, GaussianProcess):
        return optuna.samplers.GPSampler(seed=seed, n_startup_trials=kind.startup_trials)
    return optuna.samplers.TPESampler(
        seed=seed,
        n_startup_trials=kind.startup_trials,
        multivariate=kind.multivariate,
        # Running trials count as bad ones, so that trials at the same time are not drawn close to each other.
        constant_liar=True,
    )


def _pruner(settings: SearchSettings) -> "optuna.pruners.BasePruner":
    import optuna

    from bert_lightning.studies.search.paired_pruner import PairedPruner

    kind = settings.pruner
    if isinstance(kind, Median):
        return optuna.pruners.MedianPruner(n_startup_trials=kind.startup_trials, n_warmup_steps=kind.warmup_steps)
    if isinstance(kind, Hyperband):
        return optuna.pruners.HyperbandPruner(
            min_resource=kind.min_steps,
            max_resource="auto" if kind.max_steps is None else kind.max_steps,
            reduction_factor=kind.reduction_factor,
        )
    if isinstance(kind, Asha):
        return optuna.pruners.SuccessiveHalvingPruner(
            min_resource=kind.min_steps, reduction_factor=kind.reduction_factor
        )
    if isinstance(kind, Wilcoxon):
        return optuna.pruners.WilcoxonPruner(p_threshold=kind.p)
    if isinstance(kind, PairedT):
        return PairedPruner(kind.p)
    return optuna.pruners.NopPruner()
