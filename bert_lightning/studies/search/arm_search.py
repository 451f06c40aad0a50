"""The search of one arm: its trials, and its best trial with fresh seeds."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from bert_lightning.config.yaml_files import flow_yaml
from bert_lightning.errors import InputError
from bert_lightning.studies.plan import PlannedRun
from bert_lightning.studies.search.database import VALUES, Database
from bert_lightning.studies.search.engine import Engine
from bert_lightning.studies.search.outcome import best_trial, outcome_of
from bert_lightning.studies.search.planning import SearchedArm
from bert_lightning.studies.search.progress import SearchProgress
from bert_lightning.studies.search.settings import SearchSettings
from bert_lightning.studies.search.space import Space


class ArmSearch:
    """The search of one arm, from its first trial to its best trial with fresh seeds.

    Args:
        arm: the arm.
        settings: the search, with `at_once`.
        space: what it varies.
        database: where it keeps its trials.
        progress: the runs of the search.
        upstreams: the upstream runs that were planned, which all arms share.
        say: receives messages about the trials.
    """

    def __init__(
        self,
        arm: SearchedArm,
        settings: SearchSettings,
        space: Space,
        database: Database,
        progress: SearchProgress,
        upstreams: dict[tuple[str, str, int], PlannedRun],
        say: Callable[[str], None],
    ) -> None:
        self.arm, self._settings, self._database = arm, settings, database
        self._progress, self._say = progress, say
        self._upstreams = upstreams
        self._fresh: list[PlannedRun] | None = None
        self._fresh_scores: dict[int, float] = {}
        deadline = time.monotonic() + settings.timeout_seconds if settings.timeout_seconds is not None else None
        self._engine = Engine(
            settings,
            space,
            database,
            self._plan,
            progress,
            lambda: deadline is None or time.monotonic() < deadline,
            self._tell,
        )
        for trial in database.trials:
            if trial.state.is_finished():
                # The record of the study lists the runs of ended trials, too.
                with suppress(InputError):
                    progress.add(self._runs(trial.number, trial.user_attrs[VALUES]), trial.number)
        self.outcome = outcome_of(settings, database.trials, {})

    @property
    def num_done(self) -> int:
        """How many trials have ended."""
        return sum(trial.state.is_finished() for trial in self._database.trials)

    @property
    def at_once(self) -> int:
        """How many trials are drawn before the first of them has ended."""
        return self._settings.at_once or 1

    def step(self) -> Sequence[PlannedRun]:
        """Read the progress of the runs, and return the runs that should train now."""
        wanted = self._engine.step()
        if not self._engine.is_done:
            return wanted
        if self._fresh is None:
            self._fresh = self._fresh_runs()
            self._progress.add(self._fresh, None)
        reached = {run.seed: self._progress.reached(run) for run in self._fresh}
        scores = {seed: each.score for seed, each in reached.items() if each.score is not None}
        if scores != self._fresh_scores:
            self._fresh_scores = scores
            self.outcome = outcome_of(self._settings, self._database.trials, scores)
        return [run for run in self._fresh if reached[run.seed].state not in ("finished", "failed")]

    def _plan(self, number: int, values: Mapping[str, object]) -> list[PlannedRun]:
        self._say(f"{self.arm.trial_name(number)}: {in_words(values)}")
        runs = self._runs(number, values)
        self._progress.add(runs, number)
        return runs

    def _runs(self, number: int, values: Mapping[str, object]) -> list[PlannedRun]:
        """Return the runs of a trial.

        Raises:
            InputError: the experiment does not allow its values.
        """
        name = self.arm.trial_name(number)
        return [self.arm.run(name, values, seed, self._upstreams) for seed in self._settings.trial_seeds]

    def _fresh_runs(self) -> list[PlannedRun]:
        """Return the runs of the best trial with fresh seeds; none if no trial is complete."""
        best = best_trial(self._settings, self._database.trials)
        if best is None:
            return []
        values = best.user_attrs[VALUES]
        seeds = self._settings.fresh_seeds
        return [self.arm.run(self.arm.label, values, seed, self._upstreams) for seed in seeds]

    def _tell(self, number: int, outcome: float | str | None) -> None:
        """Report how a trial ended.

        Args:
            number: the trial.
            outcome: its score, the reason of its failure, or None if it was stopped early.
        """
        trials, name = self._database.trials, self.arm.trial_name(number)
        self.outcome = outcome_of(self._settings, trials, {})
        if isinstance(outcome, str):
            self._say(f"{name} failed: {outcome}")
        elif outcome is None:
            self._say(f"{name} was stopped early: earlier trials were better")
        else:
            best = best_trial(self._settings, trials)
            assert best is not None, "this trial is complete"
            place = "the best so far" if best.number == number else f"the best is trial {best.number}"
            self._say(f"{name}: {self._settings.metric} {outcome:.4f}, {place}")


def in_words(values: Mapping[str, object]) -> str:
    """Return dotted keys and values as text, with numbers rounded to four digits.

    >>> in_words({"optimizer.learning_rate": 0.000123456, "optimizer.name": "muon"})
    'optimizer.learning_rate=0.0001235, optimizer.name=muon'
    """
    return ", ".join(f"{key}={_text(value)}" for key, value in values.items())


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else flow_yaml(value)
