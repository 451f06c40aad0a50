"""The draws of a search, as a pure function of what earlier trials reached.

A sampler that lives through a search has a state, which a kill loses. Here each trial has a sampler of its own, whose
seed comes from the seed of the search and the number of the trial. So the draws of a search that was stopped anywhere
are those of one that was not.

Nor do the draws depend on which of several trials ends first. With n trials at once, trial k is drawn from the scores
of the trials up to k - n alone. Later ones count as running, even if they have ended.
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
    """A trial and the settings that it trains.

    Attributes:
        trial: the trial as the database keeps it, running and with its parameters.
        values: dotted keys and their values.
    """

    trial: "FrozenTrial"
    values: dict[str, object]


def require_optuna() -> None:
    """Check that the packages of the extra are there, and let optuna print no progress of its own.

    Raises:
        InputError: one is missing. The message names the extra.
    """
    try:
        import optuna
        import scipy  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"search needs {error.name}, which the extra studies brings: pip install 'bert_lightning[studies]'"
        ) from None
    optuna.logging.set_verbosity(logging.ERROR)
    # Signed ranks, and TPE over several keys together, are marked as experimental.
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


def draw(settings: SearchSettings, space: Space, name: str, before: "Sequence[FrozenTrial]") -> Draw:
    """Draw the next trial.

    Args:
        settings: the search.
        space: what it varies.
        name: name of the search, on which the brackets of Hyperband depend.
        before: all trials before it, in the order of their numbers; at least `num_needed` of them have ended.
    """
    trial = view(settings, name, before).ask()
    values = space.suggest(trial)
    return Draw(_as_just_begun(trial.study.trials[trial.number]), values)


def values_of(space: Space, trial: "FrozenTrial") -> dict[str, object]:
    """Return dotted keys and the values that an existing trial has."""
    import optuna

    return space.suggest(optuna.trial.FixedTrial(trial.params))


def num_needed(settings: SearchSettings, number: int) -> int:
    """Return how many of the first trials must have ended before a trial is drawn: it sees their scores alone."""
    return max(0, number + 1 - (settings.at_once or 1))


def view(settings: SearchSettings, name: str, before: "Sequence[FrozenTrial]") -> "optuna.Study":
    """Return a study in the memory as the next trial sees it, with the sampler and pruner of that trial."""
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
    """Return a trial as running, without what it has reached, which depends on the moment."""
    from optuna.trial import TrialState, create_trial

    return create_trial(state=TrialState.RUNNING, params=trial.params, distributions=trial.distributions)


def _sampler(settings: SearchSettings, number: int) -> "optuna.samplers.BaseSampler":
    import optuna

    kind = settings.sampler
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
        # Trials that run at the same time count as bad ones, so that they are not drawn close to each other.
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
