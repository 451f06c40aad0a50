"""When a trial is stopped early, as a pure function of its scores so far and of the trials before it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bert_lightning.studies.search.drawing import view
from bert_lightning.studies.search.settings import SearchSettings

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial


class Judge:
    """Judge of one trial, which hears its scores in order: at the steps of training, or one per seed.

    It compares them with the trials that the draw of this one has seen, also when others have ended. So the verdict
    does not depend on the moment, and a run that trains on for some steps after its verdict changes nothing.

    Args:
        settings: the search.
        name: name of the search.
        before: the trials before this one.
    """

    def __init__(self, settings: SearchSettings, name: str, before: "Sequence[FrozenTrial]") -> None:
        self._trial = view(settings, name, before).ask()
        self._num_heard = 0
        self._pruned = False

    def hear(self, scores: Sequence[tuple[int, float]]) -> bool:
        """Return whether the trial is to be stopped.

        Args:
            scores: (step, value) of all scores until now. The first ones are those of the last call.
        """
        for step, value in scores[self._num_heard :]:
            if self._pruned:
                break
            self._report(step, value)
            self._pruned = self._trial.should_prune()
        return self._pruned

    def note(self, scores: Sequence[tuple[int, float]]) -> bool:
        """Note scores, with which later trials are compared, without a verdict about them; return False."""
        for step, value in scores[self._num_heard :]:
            self._report(step, value)
        return False

    @property
    def heard(self) -> "FrozenTrial":
        """The trial with its scores up to the verdict, and with what the pruner noted about them."""
        return self._trial.study.trials[self._trial.number]

    def _report(self, step: int, value: float) -> None:
        self._trial.report(value, step)
        self._num_heard += 1
