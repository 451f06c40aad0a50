"""Searches whose trainings are formulas, so that hundreds of trials take a second."""

import itertools
import math
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import optuna

from bert_lightning.errors import InputError
from bert_lightning.studies.search.database import Database
from bert_lightning.studies.search.engine import Engine
from bert_lightning.studies.search.settings import SearchSettings
from bert_lightning.studies.search.space import Choices, Option, Range, Space
from bert_lightning.studies.search.trial import Reached

NUM_ROWS = 4
SPACE = Space(
    (
        Range("rate", "rate", 1e-5, 1e-1, log=True),
        Range("layers", "layers", 1, 8),
        Choices(
            "kind",
            (
                Option("plain", {"kind": "plain"}),
                Option("warm", {"kind": "warm"}, (Range("warmup (warm)", "warmup", 0.0, 1.0),)),
            ),
        ),
    )
)


class Stopped(BaseException):
    """Imitation of a kill."""


def settings(**values) -> SearchSettings:
    described = {part.name: {} for part in SPACE.parts}
    defaults = {"trials": 16, "metric": "val/accuracy", "direction": "maximize", "at_once": 1}
    return SearchSettings(space=described, **{**defaults, **values})


def score(values: Mapping[str, object], seed: int, row: int) -> float:
    """Return the score of a training after some validations, the same in each call."""
    rate, layers = float(values["rate"]), int(values["layers"])
    final = 1 - 0.05 * (math.log10(rate) + 3) ** 2 - 0.01 * (layers - 4) ** 2 - 0.1 * float(values.get("warmup", 0.3))
    luck = 0.02 * math.sin(1e6 * rate + 97 * layers + 31 * seed)
    return final * (1 - 0.5**row) + luck


@dataclass(frozen=True)
class Run:
    """One training, known by its values and its seed."""

    values: tuple[tuple[str, object], ...]
    seed: int

    @property
    def directory(self) -> str:
        return f"{self.values}/{self.seed}"


class SyntheticTrainings:
    """Trainings that take a step whenever they are asked to.

    Args:
        disk: directory -> number of validations, which stays after a kill.
        room: how many train at once.
        pace: how many validations a training makes in one step, in turn.
        failing: layers with which a training fails.
    """

    def __init__(
        self, disk: dict[str, int], room: int, pace: Sequence[int] = (1,), failing: int | None = None
    ) -> None:
        self.disk, self._room, self._pace, self._failing = disk, room, pace, failing
        self._num_steps = 0

    def directory(self, run: Run) -> str:
        return run.directory

    def reached(self, run: Run) -> Reached:
        rows, values = self.disk.get(run.directory, 0), dict(run.values)
        curve = [(10 * row, score(values, run.seed, row)) for row in range(1, rows + 1)]
        if values["layers"] == self._failing and rows > 1:
            return Reached("failed", curve[:1], message="exploded")
        if rows == NUM_ROWS:
            return Reached("finished", curve, curve[-1][1])
        return Reached("running" if rows else "waiting", curve)

    def train(self, wanted: Sequence[Run]) -> None:
        """Let some of the runs that should train take a step."""
        for number, run in enumerate(wanted[: self._room]):
            pace = self._pace[(self._num_steps + number) % len(self._pace)]
            self.disk[run.directory] = min(NUM_ROWS, self.disk.get(run.directory, 0) + pace)
        self._num_steps += 1


class Disk:
    """The database and the runs, which stay when a search is stopped. The database is in memory here."""

    _numbers = itertools.count()

    def __init__(self) -> None:
        name = f"synthetic-{next(self._numbers)}"
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.url = f"sqlite:///file:{name}?mode=memory&cache=shared&uri=true"
        # SQLite forgets such a database when its last connection is closed.
        self._keeper = sqlite3.connect(f"file:{name}?mode=memory&cache=shared", uri=True)
        self.runs: dict[str, int] = {}


def search(disk: Disk, chosen: SearchSettings, room: int = 1, **trainings) -> list[tuple]:
    """Continue a search to its end; return parameters, state, value and scores of each trial."""
    database = Database(disk.url, "synthetic")
    if database.settings is None:
        database.begin({}, chosen.direction)

    def plan(number: int, values: Mapping[str, object]) -> list[Run]:
        if values["layers"] == 1:
            raise InputError("1 layer is too few")
        return [Run(tuple(sorted(values.items())), seed) for seed in chosen.trial_seeds]

    synthetic = SyntheticTrainings(disk.runs, room, **trainings)
    engine = Engine(chosen, SPACE, database, plan, synthetic)
    while wanted := engine.step():
        synthetic.train(wanted)
    assert engine.is_done
    return [(trial.params, trial.state.name, trial.value, trial.intermediate_values) for trial in database.trials]
