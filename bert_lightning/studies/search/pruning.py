"""Early stops of trials, as a pure function of the scores of a trial so far and of earlier trials."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bert_lightning.studies.search.drawing import view
from bert_lightning.studies.search.settings import SearchSettings

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial


class Judge:
    """The decision whether to stop one trial. It receives the scores in order: at steps of training, or one per seed.

    It compares the trial only with the trials that were known when it was drawn, even if others have ended since. So
    the decision does not depend on timing. It also stays the same if the run trains a few more steps after it.

    Args:
        settings: the search.
        name: name of the search.
        before: the earlier trials.
    """

    def __init__(self, settings: SearchSettings, name: str, before: "Sequence[FrozenTrial]") -> None:
        self._trial = view(settings, name, before).ask()
        self._num_heard = 0
        self._pruned = False

    def hear(self, scores: Sequence[tuple[int, float]]) -> bool:
        """Return whether the trial should be stopped.

        Args:
            scores: (step, value) of all scores so far, beginning with those of the last call.
        """
        for step, value in scores[self._num_heard :]:
            if self._pruned:
                break
            self._report(step, value)
            self._pruned = self._trial.should_prune()
        return self._pruned

    def note(self, scores: Sequence[tuple[int, float]]) -> bool:
        """Store scores, so that later trials are compared with them, without a decision. Return False."""
        for step, value in scores[self._num_heard :]:
            self._report(step, value)
        return False

    @property
    def heard(self) -> "FrozenTrial":
        """The trial with its scores up to the decision, and with the attributes that the pruner stored."""
        return self._trial.study.trials[self._trial.number]

    def _report(self, step: int, value: float) -> None:
        self._trial.report(value, step)
        self._num_heard += 1
