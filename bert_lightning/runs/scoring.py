"""`validate` and `test`: score a saved run on its own data or on other data."""

import logging
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

from bert_lightning.checkpoints.checkpoint import Checkpoint
from bert_lightning.checkpoints.native import find_native, step_of
from bert_lightning.checkpoints.reading import read_checkpoint
from bert_lightning.config.experiment import Experiment, load_experiment
from bert_lightning.config.saved import differences
from bert_lightning.config.yaml_files import read_yaml
from bert_lightning.errors import InputError
from bert_lightning.runs.auto_settings import settle_precision
from bert_lightning.runs.building import build_scoring
from bert_lightning.runs.directory import RunDirectory
from bert_lightning.runs.evaluation_files import write_evaluation
from bert_lightning.runs.own_code import import_code_of
from bert_lightning.runs.processes import is_first_process
from bert_lightning.runs.trainer import build_trainer
from bert_lightning.tasks.catalogue import task_spec
from bert_lightning.tasks.fine_tuning.task import FineTuningTask
from bert_lightning.training import metrics_file

log = logging.getLogger(__name__)

# Settings of the model that only decide how training starts.
_OF_TRAINING = {
    f"model.{name}"
    for name in ("size", "pretrained", "weights", "resize_vocabulary", "interpolate_positions", "reinitialize_layers")
}
# Settings of the data that change no prediction.
_WITHOUT_EFFECT = {
    "num_workers",
    "evaluation_batch_size",
    "batch_size",
    "tokenizer",
    "cased",
    "max_train_samples",
    "train",
}


class Scores(NamedTuple):
    """The result of scoring a split."""

    metrics: dict[str, float]
    report: str
    """tables for the terminal; empty if there are none"""
    predictions: Path | None
    """the file of the predictions; None if none was written"""


def run_directory_of(checkpoint: Path) -> RunDirectory | None:
    """Return the run directory that a path is or lies in; None if there is none."""
    file = find_native(checkpoint)
    if file is None:
        return None
    directory = RunDirectory(file.parent.parent)
    return directory if directory.exists else None


def score(
    checkpoint_path: Path,
    command: Literal["validate", "test"],
    files: list[Path],
    overrides: list[str],
    allowed: Sequence[str] = (),
    base: str | None = None,
) -> Scores:
    """Score a checkpoint on the validation or test split.

    Metrics go to the run's `metrics.jsonl`, predictions and report to its `predictions/`. If the data are not those
    of the run, the files are named after the data.

    Args:
        checkpoint_path: a checkpoint or run directory.
        command: scores the validation or the test split.
        files: experiment files, read on top of the run's own configuration.
        overrides: keys on top of the files, as on the command line.
        allowed: modules that a `class_path` may name.
        base: the base of a checkpoint that holds only what was trained, if it has moved.

    Raises:
        InputError: there is no configuration or no such split, or the checkpoint is of another task or has another
            head.
    """
    checkpoint = read_checkpoint(checkpoint_path, base)
    import_code_of(checkpoint, allowed)
    directory = run_directory_of(checkpoint_path)
    if _task_of(files) not in (None, checkpoint.task):
        # The files are for another task, so the settings of the run are not used, and nothing is added to the run.
        directory = None
    if directory is None and not files:
        raise InputError(f"{checkpoint_path} is not part of a run directory: give the configuration with --config")
    below = directory.read_config() if directory is not None else None
    saved = directory.read_experiment(allowed) if directory is not None else None
    # A run has a settled precision, which `below` holds. So `auto` means the fastest one of this device.
    experiment = settle_precision(load_experiment(files, overrides, below, allowed), None)
    _check_task(checkpoint, experiment)
    split: Literal["validation", "test"] = "validation" if command == "validate" else "test"
    if saved is not None and is_first_process():
        _warn_of_settings_without_effect(saved, experiment, command)
    setup = build_scoring(experiment, checkpoint, split)
    for note in setup.notes if is_first_process() else ():
        log.warning("%s", note)
    folder = directory.path if directory is not None else Path.cwd()
    trainer = build_trainer(experiment, folder, [])
    run = trainer.validate if command == "validate" else trainer.test
    run(setup.task, setup.data, verbose=False)
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    if directory is None or not trainer.is_global_zero:
        return Scores(metrics, "", None)
    step = step_of(checkpoint.path)
    source = getattr(experiment.data, split)
    row = {"step": step, "checkpoint": checkpoint.path.name, "data": source}
    metrics_file.append(directory.metrics, {**row, **metrics})
    task = setup.task
    if not isinstance(task, FineTuningTask) or task.evaluation is None:
        return Scores(metrics, "", None)
    name = _name_of(experiment, saved, split)
    report = write_evaluation(directory.predictions, name, task, task.evaluation, metrics)
    return Scores(metrics, report.text if report is not None else "", directory.predictions / f"{name}.jsonl")


def _task_of(files: Sequence[Path]) -> str | None:
    """Return the task that experiment files name; None if they name none, or cannot be read."""
    named = None
    for file in files:
        with suppress(InputError):
            named = read_yaml(file).get("task", named)
    return str(named) if named is not None else None


def _check_task(checkpoint: Checkpoint, experiment: Experiment) -> None:
    if checkpoint.task not in (experiment.task, *task_spec(experiment.task).scores_without_training):
        raise InputError(
            f"{checkpoint.path} was trained for {checkpoint.task or 'no task of this package'}, "
            f"but the configuration is for {experiment.task}"
        )


def _warn_of_settings_without_effect(saved: Experiment, experiment: Experiment, command: str) -> None:
    for difference in differences(saved, experiment):
        if difference.key in _OF_TRAINING:
            log.warning("%s has no effect on %s: the model of the checkpoint is scored", difference.key, command)


def _name_of(experiment: Experiment, saved: Experiment | None, split: str) -> str:
    """Name the files of a split: only after the split for the run's own data, otherwise also after what differs."""
    own = saved.to_dict()["data"] if saved is not None else {}
    now = experiment.to_dict()["data"]
    differing = [name for name in now if name not in _WITHOUT_EFFECT and own.get(name) != now[name]]
    if not differing:
        return split
    names = []
    if {"dataset", "folder", split} & {*differing}:
        source = now[split]
        names.append(Path(source).stem if source is not None else str(now["dataset"]).replace("/", "-"))
    names += [f"{name}-{now[name]}" for name in differing if name not in ("dataset", "folder", split)]
    name = re.sub(r"[^\w.-]+", "-", "-".join([split, *names]))[:100]
    # File systems allow 255 bytes for a name, and a suffix is added.
    return name.encode()[:200].decode(errors="ignore")
