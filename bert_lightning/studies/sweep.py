"""A study as a W&B sweep: its definition, for workers that receive their next run from W&B."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import yaml

from bert_lightning.checkpoints.files import write_text
from bert_lightning.config.extensions import options_that_allow
from bert_lightning.config.variables import with_literal_variables
from bert_lightning.config.yaml_files import dump_yaml
from bert_lightning.metrics.direction import better
from bert_lightning.runs.directory import RUNS_VARIABLE
from bert_lightning.studies.ablation import check_number, folder_of, locked, new_record, record_in
from bert_lightning.studies.plan import RUNS, PlannedRun, plan_runs
from bert_lightning.studies.progress import Progress
from bert_lightning.studies.record import SWEEP, SWEEP_ARMS
from bert_lightning.studies.study_file import Study, read_study
from bert_lightning.wording import count

_GOALS = {"max": "maximize", "min": "minimize"}


def write_sweep(
    study: str | Path, directory: str | Path | None = None, many: bool = True, allow_modules: Sequence[str] = ()
) -> list[str]:
    """Write `sweep.yaml` and the record of a study into its folder, and return the lines that explain how to use it.

    The sweep varies two parameters: the experiment file of an arm, and the seed. W&B's own values could not express
    null, keys that change together, or lists. Runs get the same directories as from `ablate`.

    Args:
        study: the study file.
        directory: the folder of the study; `studies/<name of the study>` by default.
        many: whether more than 100 runs are allowed.
        allow_modules: modules that a `class_path` of an experiment may import.

    Raises:
        InputError: the file or an experiment has a fault, the folder belongs to another study, or the study has
            several stages: a sweep cannot make a run wait for another one.
    """
    described = read_study(study)
    check_number(described, many)
    if len(described.stages) > 1:
        described.fail(
            "a W&B sweep cannot make a stage wait for another one: use --launcher local or submitit", "stages"
        )
    plan = plan_runs(described, allow_modules)
    folder = folder_of(described, directory)
    record_in(folder, described)
    with locked(folder):
        before = record_in(folder, described)
        record = new_record(described, before)
        runs = (*Progress(folder, plan, before).recorded(), *record.runs)
        replace(record, runs=runs).write(folder)
        files = _write_arms(folder / SWEEP_ARMS, plan)
        definition = _definition(described, folder, files, plan, allow_modules)
        comment = f"# {described.question}\n" if described.question else ""
        text = yaml.safe_dump(definition, sort_keys=False, allow_unicode=True, width=118)
        write_text(folder / SWEEP, comment + text)
    size = f"{count(len(files), 'arm')} x {count(len(described.seeds), 'seed')}"
    return [
        f"{folder / SWEEP}: {count(len(plan), 'run')}, {size}",
        f"create the sweep, which prints its id:  wandb sweep --project {definition['project']} {folder / SWEEP}",
        "start one worker per run that should train at once, in this folder:  wandb agent ENTITY/PROJECT/ID",
        f"afterwards, add the runs to the study:  bert-lightning ablate {study}"
        + (f" --directory {directory}" if directory is not None else ""),
    ]


def _write_arms(folder: Path, plan: Sequence[PlannedRun]) -> list[Path]:
    """Write the complete experiment of each arm, without its seed, and return the files."""
    files: dict[str, Path] = {}
    for run in plan:
        if run.arm.name not in files:
            files[run.arm.name] = folder / f"{len(files) + 1:02d}.yaml"
            values = run.experiment.to_dict()
            del values["seed_everything"]
            write_text(files[run.arm.name], f"# {run.arm.name}\n{dump_yaml(with_literal_variables(values))}")
    return list(files.values())


def _definition(
    study: Study, folder: Path, files: Sequence[Path], plan: Sequence[PlannedRun], allowed: Sequence[str]
) -> dict[str, object]:
    """Return the definition of the sweep, as W&B reads it."""
    stage = study.stages[0].name
    metric = next(iter(study.compare.metric), None)
    goal = _GOALS.get(better(metric) or "") if metric is not None else None
    return {
        "name": study.name,
        "project": plan[0].experiment.wandb.project,
        "method": "grid",
        **({"metric": {"name": metric, "goal": goal}} if goal is not None else {}),
        "parameters": {
            "config": {"values": [str(file) for file in files]},
            "seed_everything": {"values": list(study.seeds)},
        },
        "command": [
            "${env}",
            f"{RUNS_VARIABLE}={folder / RUNS}",
            f"WANDB_RUN_GROUP={study.name}",
            f"WANDB_JOB_TYPE={stage}",
            *("python", "-m", "bert_lightning", "fit"),
            *options_that_allow(allowed),
            "${args}",
        ],
    }
