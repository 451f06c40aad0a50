"""`validate` and `test`: a saved run on its own data or on other data."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from bert_lightning.checkpoints.native import find_native, step_of
from bert_lightning.checkpoints.reading import read_checkpoint
from bert_lightning.config.experiment import Experiment, load_experiment
from bert_lightning.errors import InputError
from bert_lightning.runs.building import build
from bert_lightning.runs.directory import RunDirectory
from bert_lightning.runs.evaluation_files import write_evaluation
from bert_lightning.runs.trainer import build_trainer
from bert_lightning.tasks.fine_tuning.task import FineTuningTask
from bert_lightning.training import metrics_file

# Settings of data that change no prediction.
_NO_MATTER = {
    "num_workers",
    "evaluation_batch_size",
    "batch_size",
    "tokenizer",
    "cased",
    "max_train_samples",
    "train",
}


class Scored(NamedTuple):
    """What scoring gave."""

    metrics: dict[str, float]
    report: str
    """tables a person reads; empty where there are none"""
    predictions: Path | None
    """the file of the predictions, where some were written"""


def run_directory_of(checkpoint: Path) -> RunDirectory | None:
    """The run directory that a checkpoint path lies in or is."""
    file = find_native(checkpoint)
    if file is None:
        return None
    directory = RunDirectory(file.parent.parent)
    return directory if directory.exists else None


def score(
    checkpoint_path: Path,
    stage: Literal["validate", "test"],
    files: list[Path],
    overrides: list[str],
    allowed: Sequence[str] = (),
) -> Scored:
    """Score a checkpoint on the validation or test split; metrics go to the run's `metrics.jsonl`, predictions and
    report to its `predictions/`.

    The configuration is the run's own with `files` and `overrides` on top. Other data than the run's own is written
    under its own name.

    Raises:
        InputError: no configuration, or no such split.
    """
    checkpoint = read_checkpoint(checkpoint_path)
    directory = run_directory_of(checkpoint_path)
    if directory is None and not files:
        raise InputError(f"{checkpoint_path} is not part of a run directory: give the configuration with --config")
    below = directory.read_config() if directory is not None else None
    experiment = load_experiment(files, overrides, below, allowed)
    if checkpoint.task != experiment.task:
        raise InputError(
            f"{checkpoint_path} was trained for {checkpoint.task or 'no task of ours'}, "
            f"but the configuration is for {experiment.task}"
        )
    split: Literal["validation", "test"] = "validation" if stage == "validate" else "test"
    setup = build(_with_weights(experiment), checkpoint, split)
    folder = directory.path if directory is not None else Path.cwd()
    trainer = build_trainer(experiment, folder, [])
    run = trainer.validate if stage == "validate" else trainer.test
    run(setup.task, setup.data, verbose=False)
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    if directory is None or not trainer.is_global_zero:
        return Scored(metrics, "", None)
    step = step_of(checkpoint.path)
    source = getattr(experiment.data, split)
    row = {"step": step, "checkpoint": checkpoint.path.name, "data": source}
    metrics_file.append(directory.metrics, {**row, **metrics})
    task = setup.task
    if not isinstance(task, FineTuningTask) or task.evaluation is None:
        return Scored(metrics, "", None)
    name = _name_of(experiment, below, split)
    report = write_evaluation(directory.predictions, name, task, task.evaluation, metrics)
    return Scored(metrics, report.text if report is not None else "", directory.predictions / f"{name}.jsonl")


def _name_of(experiment: Experiment, below: dict[str, object] | None, split: str) -> str:
    """The split where data and settings are the run's own, else the split and what differs."""
    own = below.get("data") if below is not None else None
    own = own if isinstance(own, dict) else {}
    now = experiment.to_dict()["data"]
    differing = [name for name in now if name not in _NO_MATTER and own.get(name) != now[name]]
    if not differing:
        return split
    names = []
    if {"dataset", "folder", split} & {*differing}:
        source = now[split]
        names.append(Path(source).stem if source is not None else str(now["dataset"]).replace("/", "-"))
    names += [f"{name}-{now[name]}" for name in differing if name not in ("dataset", "folder", split)]
    name = re.sub(r"[^\w.-]+", "-", "-".join([split, *names]))[:100]
    # File systems allow 255 bytes for a name, and an ending is added.
    return name.encode()[:200].decode(errors="ignore")


def _with_weights(experiment: Experiment) -> Experiment:
    """The experiment with the checkpoint's weights, even if training began with random ones."""
    return dataclasses.replace(experiment, model=dataclasses.replace(experiment.model, weights="pretrained"))
