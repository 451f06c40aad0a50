"""A pruner for optuna that compares the seeds of two trials by a paired t test."""

from typing import TYPE_CHECKING

import numpy as np
from optuna.pruners import BasePruner
from optuna.study import StudyDirection

from bert_lightning.studies.statistics.values import no_spread

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial


class PairedPruner(BasePruner):
    """A pruner that stops a trial if its scores are worse than those of the best trial with the same seeds.

    The test is one-sided. It is repeated after each seed, so `p` is not the error rate of the whole comparison.

    Args:
        p: the p-value below which a trial is stopped.
    """

    def __init__(self, p: float) -> None:
        self._p = p

    def prune(self, study: "Study", trial: "FrozenTrial") -> bool:
        """Return whether the trial, which has reported one score per seed, should end here."""
        from scipy.stats import ttest_1samp

        best = _best(study)
        seeds = [seed for seed in trial.intermediate_values if best and seed in best.intermediate_values]
        if best is None or len(seeds) < 2:
            return False
        sign = 1.0 if study.direction == StudyDirection.MAXIMIZE else -1.0
        gains = [sign * (trial.intermediate_values[seed] - best.intermediate_values[seed]) for seed in seeds]
        largest = max(abs(value) for value in trial.intermediate_values.values())
        if no_spread(np.array(gains), largest):
            # Equal differences have no t test. On a small data set they are common.
            return False
        return bool(ttest_1samp(gains, 0.0, alternative="less").pvalue < self._p)


def _best(study: "Study") -> "FrozenTrial | None":
    try:
        return study.best_trial
    except ValueError:
        return None
