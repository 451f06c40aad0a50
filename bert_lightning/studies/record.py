"""The record of a study, `study.json`: its question, its runs, and the state of each."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from bert_lightning.checkpoints.files import write_json
from bert_lightning.config.published import Published
from bert_lightning.errors import InputError

NAME = "study.json"
SUBMITIT, SWEEP, SWEEP_ARMS, DATABASE = "submitit", "sweep.yaml", "sweep", "search.db"
"""Names of what may be next to it: jobs of a cluster, a sweep of W&B with its arms, trials of a search."""
FORMAT = 1

# Messages of runs whose directories hold a result that does not count. Records hold them, so they stay as they are.
STALE = "stale: the run that it starts from was trained again, with other weights"
OTHER_SETTINGS = "its directory holds a run with other settings"

State = Literal["waiting", "running", "finished", "failed", "interrupted", "pruned", "blocked"]
"""State of a run.

A failed run ended with an error. An interrupted run was stopped or killed, and can resume. A blocked run has an
upstream run that failed. A pruned run was stopped by a search, because other trials were better.
"""

# The states of runs that `ablate` trains.
UNFINISHED: tuple[State, ...] = ("waiting", "interrupted", "running", "blocked")


@dataclass(frozen=True)
class Compare:
    """Metrics and baseline of a study's comparison.

    Attributes:
        metric: names of the metrics, such as val/accuracy; empty for all.
        baseline: the arm that the others are compared with; None for the first arm of each stage.
        equivalence: the margin within which arms count as equal, in units of the metric; None if the study does not
            ask about equivalence.
        stages: stages that are compared with each other, as arms. There is a table for each arm of the study, and the
            baseline is a stage.
    """

    metric: tuple[str, ...] = ()
    baseline: str | None = None
    equivalence: float | None = None
    stages: tuple[str, ...] = ()


@dataclass(frozen=True)
class RecordedRun:
    """One run of a study.

    Attributes:
        stage: name of its stage.
        arm: name of its arm. A later stage has the same names, unless it adds axes or arms.
        values: dotted key -> value of the arm's axes, including those of earlier stages. If several
            sections of the study file set a key, that of a stage has the stage in front, as in
            `rte/optimizer.learning_rate`.
        seed: value of `seed_everything`.
        directory: its run directory, relative to the folder of the study. It may not exist yet. The output of the run
            is in the file `<directory>.log`.
        state: its state.
        status: exit status of its last process, negative for the signal that killed it; None if none has ended.
        message: why it has not finished; None if it has, or if that is not known.
        seconds: the time that it took, summed over its sessions.
        attempts: how many processes were started for it.
        trial: number of its trial in a search; None outside searches.
    """

    stage: str
    arm: str
    values: dict[str, object]
    seed: int
    directory: str
    state: State = "waiting"
    status: int | None = None
    message: str | None = None
    seconds: float = 0.0
    attempts: int = 0
    trial: int | None = None

    @property
    def log(self) -> str:
        """The file with its output, relative to the folder of the study."""
        return f"{self.directory}.log"


@dataclass(frozen=True)
class StudyRecord:
    """The record of a study.

    Attributes:
        study: its name.
        question: the question that it asks.
        file: text of the study file.
        version: version of this package that wrote it.
        stages: names of the stages, each after those that it starts from.
        runs: all runs, stage by stage; the first arm of a stage is its baseline.
        compare: the metrics and the baseline of its comparison.
        published: arm -> published figures.
        search: settings and results of a search; None without one. Its entry `arms` maps the name of each searched
            arm, under which its best trial runs with fresh seeds, to the results of `outcome_of`.
    """

    study: str
    question: str
    file: str
    version: str
    stages: tuple[str, ...]
    runs: tuple[RecordedRun, ...] = ()
    compare: Compare = field(default_factory=Compare)
    published: dict[str, list[Published]] = field(default_factory=dict)
    search: dict[str, Any] | None = None

    @property
    def of_searches(self) -> tuple[RecordedRun, ...]:
        """The runs of searches: trials, and runs of the best trial with fresh seeds."""
        return tuple(run for run in self.runs if self._is_of_search(run))

    @property
    def of_arms(self) -> tuple[RecordedRun, ...]:
        """The runs of the study's own arms and seeds."""
        return tuple(run for run in self.runs if not self._is_of_search(run))

    def arms(self, stage: str) -> list[str]:
        """Return the arms of a stage in their order, without those of searches."""
        return list(dict.fromkeys(run.arm for run in self.of_arms if run.stage == stage))

    def _is_of_search(self, run: RecordedRun) -> bool:
        return run.trial is not None or (self.search is not None and run.arm in self.search["arms"])

    def of_state(self, *states: State) -> list[RecordedRun]:
        """Return the runs in one of some states."""
        return [run for run in self.runs if run.state in states]

    @classmethod
    def exists(cls, folder: Path) -> bool:
        """Return whether a folder holds a study."""
        return (folder / NAME).is_file()

    @classmethod
    def read(cls, folder: Path) -> "StudyRecord":
        """Read the record of the study in a folder.

        Raises:
            InputError: there is none, it is damaged, or a later version of this package wrote it.
        """
        path = folder / NAME
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise InputError(f"{folder} holds no study: it has no {NAME}") from None
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: cannot be read: {error}") from None
        try:
            if values["format"] > FORMAT:
                raise InputError(
                    f"{path} was written by version {values.get('version')} of this package in a later format: "
                    "install that version to continue this study"
                )
            return cls._of(values)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"{path}: damaged ({type(error).__name__}: {error}): move it away, and `ablate` writes it again from "
                "the run directories"
            ) from None

    def write(self, folder: Path) -> None:
        """Write the record atomically."""
        values = dataclasses.asdict(self)
        for run in values["runs"]:
            if run["trial"] is None:
                del run["trial"]
        if self.search is None:
            del values["search"]
        write_json(folder / NAME, {"format": FORMAT, **values})

    @classmethod
    def _of(cls, values: Mapping[str, Any]) -> "StudyRecord":
        compare = values["compare"]
        runs = [RecordedRun(**_known(RecordedRun, run)) for run in values["runs"]]
        unknown = next((run.state for run in runs if run.state not in get_args(State)), None)
        if unknown is not None:
            raise ValueError(f"a run has the state {unknown!r}")
        return cls(
            study=values["study"],
            question=values["question"],
            file=values["file"],
            version=values["version"],
            stages=tuple(values["stages"]),
            runs=tuple(runs),
            compare=Compare(
                **{
                    **_known(Compare, compare),
                    "metric": tuple(compare["metric"]),
                    "stages": tuple(compare.get("stages", ())),
                }
            ),
            published={
                arm: [Published(**_known(Published, figure)) for figure in figures]
                for arm, figures in values["published"].items()
            },
            search=values.get("search"),
        )


def remove_leftovers(folder: Path) -> None:
    """Remove half-written records of killed processes. The caller has locked the folder."""
    for path in folder.glob(f".{NAME}.*.tmp"):
        path.unlink(missing_ok=True)


def _known(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that are fields of a dataclass, without keys that a later version may have added."""
    names = {each.name for each in dataclasses.fields(cls)}
    return {name: value for name, value in values.items() if name in names}
