"""The loop of a search: draw trials, choose the runs that should train, and store the results."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from bert_lightning.errors import InputError
from bert_lightning.studies.search.database import VALUES, Database
from bert_lightning.studies.search.drawing import draw, num_needed
from bert_lightning.studies.search.settings import SearchSettings
from bert_lightning.studies.search.space import Space
from bert_lightning.studies.search.trial import Reached, Trial

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

R = TypeVar("R")
_Run = TypeVar("_Run", contravariant=True)


class Trainings(Protocol[_Run]):
    """A source of the directories and the progress of runs."""

    def directory(self, run: _Run) -> str:
        """Return the run directory, relative to the folder of the study."""

    def reached(self, run: _Run) -> Reached:
        """Return the progress of a run, including earlier sessions."""


@dataclass
class _InFlight(Generic[R]):
    trial: Trial
    runs: Sequence[R]


class Engine(Generic[R]):
    """The search of one arm.

    Args:
        settings: the search, with `at_once`.
        space: the space of the search.
        database: the database of its trials.
        plan: function from the number and the values of a trial to its runs, one per seed. It raises InputError if
            the experiment does not allow the values.
        trainings: the progress of the runs.
        may_draw: returns whether there is time for another trial.
        ended: callback for each trial that ends, with its number and its outcome: the score, the reason of a failure,
            or None if it was stopped early.

    Attributes:
        is_done: whether all trials have ended, or there is no time for more.
    """

    def __init__(
        self,
        settings: SearchSettings,
        space: Space,
        database: Database,
        plan: Callable[[int, Mapping[str, object]], Sequence[R]],
        trainings: Trainings[R],
        may_draw: Callable[[], bool] = lambda: True,
        ended: Callable[[int, float | str | None], None] = lambda number, outcome: None,
    ) -> None:
        self._settings, self._space, self._database = settings, space, database
        self._plan, self._trainings = plan, trainings
        self._may_draw, self._ended = may_draw, ended
        self._in_flight: list[_InFlight[R]] = []
        self._is_resumed = self.is_done = False

    def step(self) -> list[R]:
        """Read the progress of the runs, and return the runs that should train now, in the order of the trials.

        All other runs should stop.
        """
        if not self._is_resumed:
            self._resume()
        while True:
            self._draw()
            wanted, num_before = [], len(self._in_flight)
            for each in list(self._in_flight):
                wanted += self._advance(each)
            # If a trial has ended, others may now be drawn.
            if len(self._in_flight) == num_before:
                self.is_done = not self._in_flight
                return wanted

    def _resume(self) -> None:
        """Continue the trials that had not ended in an earlier session."""
        self._is_resumed = True
        for trial in self._database.trials:
            if not trial.state.is_finished():
                self._take(trial.number, self._planned(trial.number, trial.user_attrs[VALUES]))

    def _draw(self) -> None:
        """Draw trials until the next one needs the score of a trial that has not ended, or time is over."""
        trials = self._database.trials
        while len(trials) < self._settings.trials:
            needed = trials[: num_needed(self._settings, len(trials))]
            if not all(trial.state.is_finished() for trial in needed) or not self._may_draw():
                return
            drawn = draw(self._settings, self._space, self._database.name, trials)
            planned = self._planned(len(trials), drawn.values)
            directories = [] if isinstance(planned, str) else [self._trainings.directory(run) for run in planned]
            self._database.start(drawn, directories)
            self._take(len(trials), planned)
            trials = self._database.trials

    def _planned(self, number: int, values: Mapping[str, object]) -> Sequence[R] | str:
        """Return the runs of a trial, or the reason why the experiment does not allow its values."""
        try:
            return self._plan(number, values)
        except InputError as error:
            return str(error)

    def _take(self, number: int, planned: Sequence[R] | str) -> None:
        """Add a trial to those in flight; end it if its values are not allowed."""
        if isinstance(planned, str):
            self._end(number, None, planned)
            return
        trial = Trial(self._settings, self._database.name, self._database.trials[:number])
        self._in_flight.append(_InFlight(trial, planned))

    def _advance(self, each: _InFlight[R]) -> list[R]:
        """Return the runs of a trial that should train now. If the trial has ended, store its outcome."""
        advice = each.trial.advance([self._trainings.reached(run) for run in each.runs])
        if advice.ended:
            self._in_flight.remove(each)
            self._end(each.trial.number, each.trial.heard, advice.outcome)
        return [each.runs[number] for number in advice.train]

    def _end(self, number: int, heard: "FrozenTrial | None", outcome: float | str | None) -> None:
        self._database.end(number, heard, outcome)
        self._ended(number, outcome)
