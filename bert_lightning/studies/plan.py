"""The plan of a study: all of its runs, with loaded experiments, run directories and upstream runs."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from bert_lightning.checks import nearest
from bert_lightning.config.experiment import Experiment, load_experiment
from bert_lightning.config.sequence_tasks import changed_data
from bert_lightning.config.yaml_files import flow_yaml
from bert_lightning.errors import InputError
from bert_lightning.studies.arms import Arm, arms_of, num_arms
from bert_lightning.studies.record import RecordedRun
from bert_lightning.studies.stages import Stage
from bert_lightning.studies.study_file import Study

# A study with more runs needs --yes.
MANY_RUNS = 100
# A study with more runs is a mistake: each run of a plan takes memory and time.
_MOST_RUNS = 100_000
# The data of all tasks of a sequence, and the sections that do not decide them.
TASKS, _OF_PLACE = "sequence.tasks", ("sequence", "continual")
# The folder of all runs, in the folder of the study.
RUNS = "runs"


@dataclass(frozen=True, eq=False)
class PlannedRun:
    """One training of a study.

    Attributes:
        stage: name of its stage.
        arm: its arm.
        seed: value of `seed_everything`.
        files: experiment files.
        settings: dotted key -> value, which override the files; without the keys of `upstreams`.
        upstreams: dotted key -> the upstream run whose directory becomes its value.
        experiment: its settings, with the identity of each upstream run in place of its directory.
    """

    stage: str
    arm: Arm
    seed: int
    files: tuple[Path, ...]
    settings: Mapping[str, object]
    upstreams: Mapping[str, "PlannedRun"]
    experiment: Experiment = field(repr=False)

    @property
    def directory(self) -> str:
        """The run directory, relative to the folder of the study. It depends only on the settings."""
        return f"{RUNS}/{self.experiment.experiment}/{self.experiment.identity}"

    @property
    def name(self) -> str:
        """Stage, arm and seed."""
        return run_name(self.stage, self.arm.name, self.seed)

    def arguments(self, path_of: Callable[["PlannedRun"], Path]) -> list[str]:
        """Return the experiment files and settings as arguments of `fit`.

        Args:
            path_of: function from an upstream run to its directory.
        """
        starts = {key: str(path_of(run)) for key, run in self.upstreams.items()}
        return ["--config", *map(str, self.files), *as_overrides({**self.settings, **starts})]

    def recorded(self) -> RecordedRun:
        """Return the entry of the run in the record of the study before it starts."""
        return RecordedRun(self.stage, self.arm.name, dict(self.arm.values), self.seed, self.directory)


def run_name(stage: str, arm: str, seed: int) -> str:
    """Return the name of a run in messages.

    >>> run_name("rte", "objective=next-sentence", 3)
    'rte, objective=next-sentence, seed 3'
    """
    return f"{stage}, {arm}, seed {seed}"


def plan_runs(study: Study, allowed: Sequence[str] = ()) -> list[PlannedRun]:
    """Load the experiment of every run of a study, stage by stage, arm by arm, seed by seed.

    Args:
        study: the study.
        allowed: modules that a `class_path` of an experiment may import.

    Raises:
        InputError: an experiment has a fault, two runs have equal settings, or `compare` or `published` names an
            unknown arm. The message names the study file, the arm and the key.
    """
    if not study.seeds:
        study.fail("the key seeds is missing: it lists the seeds of each arm, such as [1, 2, 3, 4, 5]")
    if (num := count_runs(study)) > _MOST_RUNS:
        study.fail(f"the study has {num:,} runs, and at most {_MOST_RUNS:,} are allowed: make its axes shorter")
    arms = arms_of(study)
    _check_names(study, arms)
    planned: dict[tuple[str, str, int], PlannedRun] = {}
    owners: dict[str, PlannedRun] = {}
    # Name of an arm -> the data of all tasks of a sequence.
    tasks: dict[str, list[dict[str, object]]] = {}
    for stage in study.stages:
        for arm in arms[stage.name]:
            if stage.in_sequence and arm.name not in tasks:
                tasks[arm.name] = data_of_tasks(study, arm, allowed)
            for seed in study.seeds:
                upstreams = {key: planned[name, other, seed] for key, (name, other) in arm.upstreams.items()}
                run = plan_run(study, stage, arm, seed, upstreams, allowed, tasks.get(arm.name))
                _check_new(study, run, owners)
                planned[stage.name, arm.name, seed] = run
    return list(planned.values())


def count_runs(study: Study, stages: Collection[str] = ()) -> int:
    """Return an upper bound on the number of runs of some stages, or of all, without loading their experiments.

    It is exact unless an arm of a stage sets the key that `from` would set.
    """
    return num_arms(study, stages) * len(study.seeds)


def with_earlier_stages(study: Study, stages: Sequence[str]) -> tuple[str, ...]:
    """Return some stages and all stages that these start from, in the order of the study.

    Args:
        study: the study.
        stages: names of stages; if there are none, all stages of the study are meant.

    Raises:
        InputError: the study has no stage of a name.
    """
    known = {stage.name: stage for stage in study.stages}
    wanted = set(stages or known)
    if unknown := next((name for name in stages if name not in known), None):
        raise InputError(f"{study.path} has no stage {unknown!r}{nearest(unknown, known)}")
    for stage in reversed(study.stages):
        if stage.name in wanted:
            wanted |= set(stage.upstreams.values())
    return tuple(name for name in known if name in wanted)


def plan_run(
    study: Study,
    stage: Stage,
    arm: Arm,
    seed: int,
    upstreams: Mapping[str, PlannedRun],
    allowed: Sequence[str] = (),
    tasks: list[dict[str, object]] | None = None,
) -> PlannedRun:
    """Load the experiment of one run.

    Args:
        study: the study.
        stage: the stage of the run.
        arm: the arm of the run.
        seed: value of `seed_everything`.
        upstreams: dotted key -> the upstream run whose directory becomes its value.
        allowed: modules that a `class_path` of the experiment may import.
        tasks: what `data_of_tasks` returned, if the stage is a task of a sequence.

    Raises:
        InputError: it has a fault. The message names the study file, the arm and the key.
    """
    settings = {**stage.overrides, **arm.settings, "seed_everything": seed}
    if tasks is not None:
        settings[TASKS] = tasks
    identities = {key: run.experiment.identity for key, run in upstreams.items()}
    try:
        experiment = load_experiment(stage.base, as_overrides({**settings, **identities}), None, allowed)
    except InputError as error:
        _refuse(study, stage, arm, str(error))
    if experiment.trainer.num_nodes > 1:
        # The run would wait for the other machines until its timeout.
        _refuse(study, stage, arm, "trainer.num_nodes is above 1, and a study trains each run on one machine")
    return PlannedRun(stage.name, arm, seed, stage.base, settings, dict(upstreams), experiment)


def data_of_tasks(study: Study, arm: Arm, allowed: Sequence[str]) -> list[dict[str, object]]:
    """Return the keys under `data` of each task of a sequence, as an arm has them; those with defaults are left out.

    Raises:
        InputError: the experiment of a task has a fault.
    """
    tasks: list[dict[str, object]] = []
    for stage in study.stages:
        settings = {**stage.overrides, **arm.settings}
        # Which task of the sequence this is, and the model to start from, have no effect on the data.
        settings = {key: value for key, value in settings.items() if key.partition(".")[0] not in _OF_PLACE}
        settings |= {"model.size": None, "model.pretrained": stage.name}
        try:
            experiment = load_experiment(stage.base, as_overrides(settings), None, allowed)
        except InputError as error:
            _refuse(study, stage, arm, str(error))
        tasks.append({"name": stage.name, "data": changed_data(experiment)})
    return tasks


def as_overrides(settings: Mapping[str, object]) -> list[str]:
    """Return settings in the form of the command line of `fit`, so that the study and the run parse the same text."""
    return [f"--{key}={value if isinstance(value, str) else flow_yaml(value)}" for key, value in settings.items()]


def _refuse(study: Study, stage: Stage, arm: Arm, message: str) -> NoReturn:
    """Raise an error about the experiment of an arm.

    Raises:
        InputError: always.
    """
    message = re.sub(r"\bcommand line: ", "", message)
    where = f"the arm {arm.name!r}" if len(study.stages) == 1 else f"the stage {stage.name}, arm {arm.name!r}"
    keys = [*arm.settings, *stage.overrides, *arm.upstreams]
    named = next((key for key in keys if re.search(rf"(?<![\w.]){re.escape(key)}(?!\w)", message)), None)
    line = _line_with(study.text, named) if named is not None else None
    raise InputError(f"{study.path}: {f'line {line}: ' if line is not None else ''}{where}: {message}")


def _line_with(text: str, key: str) -> int | None:
    """Return the number of the first line that gives a key a value; None if there is none."""
    found = re.search(rf"(?m)(?<![\w.]){re.escape(key)}[\"']?\s*:", text)
    return text.count("\n", 0, found.start()) + 1 if found else None


def _check_new(study: Study, run: PlannedRun, owners: dict[str, PlannedRun]) -> None:
    """Check that no other run of the study has the same settings, and add this one to `owners`.

    Raises:
        InputError: another run has the same settings.
    """
    other = owners.setdefault(run.directory, run)
    if other is not run:
        study.fail(
            f"{other.name} and {run.name} are the same experiment: all of their settings are equal, so remove one"
        )


def _check_names(study: Study, arms: Mapping[str, Sequence[Arm]]) -> None:
    """Check that the arms that `compare` and `published` name exist.

    Raises:
        InputError: one does not.
    """
    known = list(dict.fromkeys(arm.name for of_stage in arms.values() for arm in of_stage))
    baseline, stages = study.compare.baseline, study.compare.stages
    if baseline is not None and baseline not in (stages or known):
        kind = "a stage that is compared" if stages else "an arm"
        near = nearest(baseline, stages or known)
        study.fail(f"the baseline {baseline!r} is not {kind}{near}", "compare", "baseline")
    for stage in stages:
        if [arm.name for arm in arms[stage]] != [arm.name for arm in arms[stages[0]]]:
            message = f"the stages {stages[0]} and {stage} have different arms, so they cannot be compared"
            study.fail(message, "compare", "stages")
    if stages and study.published:
        message = (
            "published names arms, and compare.stages makes stages the rows: put figures into the experiment files"
        )
        study.fail(message, "published")
    for name in study.published:
        if name not in known:
            study.fail(f"published names {name!r}, which is not an arm{nearest(name, known)}", "published", name)
