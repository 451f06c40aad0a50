"""`validate`, `test` and `predict`: a saved run alone, on its own data or on new input."""

import dataclasses
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch

from bert_lightning.checkpoints.checkpoint import Checkpoint
from bert_lightning.checkpoints.files import write_text
from bert_lightning.checkpoints.native import find_native
from bert_lightning.checkpoints.reading import read_checkpoint
from bert_lightning.data.lines import STANDARD_INPUT, read_lines
from bert_lightning.data.sources import Row, is_table, json_row, read_rows
from bert_lightning.errors import InputError
from bert_lightning.runs.building import build_parts, task_of
from bert_lightning.runs.directory import RunDirectory
from bert_lightning.runs.experiment import Experiment, load_experiment
from bert_lightning.runs.trainer import build_trainer, quiet, share_out_cores
from bert_lightning.tasks.base import Task
from bert_lightning.tasks.text_classification import TextClassificationTask
from bert_lightning.training import metrics_file

PREDICTION_BATCH_SIZE = 64


def run_directory_of(checkpoint: Path) -> RunDirectory | None:
    """The run directory that a checkpoint path lies in or is."""
    file = find_native(checkpoint)
    if file is None:
        return None
    directory = RunDirectory(file.parent.parent)
    return directory if directory.exists else None


def score(
    checkpoint_path: Path, stage: Literal["validate", "test"], files: list[Path], overrides: list[str]
) -> dict[str, float]:
    """Score a checkpoint on the validation or test split; the metrics also go to the run's `metrics.jsonl`.

    The configuration is the run's own with `files` and `overrides` on top.

    Raises:
        InputError: no configuration, or no such split.
    """
    checkpoint = read_checkpoint(checkpoint_path)
    directory = run_directory_of(checkpoint_path)
    if directory is None and not files:
        raise InputError(f"{checkpoint_path} is not part of a run directory: give the configuration with --config")
    below = directory.read_config() if directory is not None else None
    experiment = load_experiment(files, overrides, below)
    if checkpoint.task != experiment.task:
        raise InputError(
            f"{checkpoint_path} was trained for {checkpoint.task or 'no task of ours'}, "
            f"but the configuration is for {experiment.task}"
        )
    split: Literal["validation", "test"] = "validation" if stage == "validate" else "test"
    parts = build_parts(_with_weights(experiment), checkpoint, split)
    folder = directory.path if directory is not None else Path.cwd()
    trainer = build_trainer(experiment, folder, [])
    run = trainer.validate if stage == "validate" else trainer.test
    run(parts.task, parts.data, verbose=False)
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    if directory is not None and trainer.is_global_zero:
        step = int(torch.load(checkpoint.path, map_location="cpu", weights_only=True, mmap=True)["global_step"])
        row = {"step": step, "checkpoint": checkpoint.path.name, "data": getattr(experiment.data, split)}
        metrics_file.append(directory.metrics, {**row, **metrics})
        if stage == "test":
            _write_test_predictions(directory, parts.task, parts.data)
    return metrics


def _with_weights(experiment: Experiment) -> Experiment:
    """The experiment with the checkpoint's weights, even if training began with random ones."""
    return dataclasses.replace(experiment, model=dataclasses.replace(experiment.model, weights="pretrained"))


def _write_test_predictions(directory: RunDirectory, task: Task, data: Any) -> None:
    if isinstance(task, TextClassificationTask):
        texts = data.examples["test"].texts
        lines = (
            {
                "text": texts[n],
                "gold": task.labels[gold],
                "label": task.labels[label],
                "probability": round(p, 6),
            }
            for n, gold, label, p in task.predictions
        )
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        write_text(directory.predictions / "test.jsonl", text)


def predict(checkpoint: Checkpoint, rows: Iterable[Row]) -> Iterator[dict[str, Any]]:
    """Predictions for raw rows, some thousand at a time.

    Raises:
        InputError: the checkpoint cannot predict, or a row lacks a column.
    """
    quiet()
    share_out_cores(1)
    task = task_of(checkpoint).eval()
    block: list[Row] = []
    with torch.inference_mode():
        for row in rows:
            block.append(row)
            if len(block) == 32 * PREDICTION_BATCH_SIZE:
                yield from task.predict_rows(block, PREDICTION_BATCH_SIZE)
                block = []
        if block:
            yield from task.predict_rows(block, PREDICTION_BATCH_SIZE)


def raw_rows(source: str, checkpoint: Checkpoint) -> Iterator[Row]:
    """Rows of a table (TSV, CSV, JSONL, Parquet), or the lines of any other file or of standard input (`-`).

    A line of plain text is the model's text column; for a model of pairs a tab separates the two texts. A line of
    standard input that starts with `{` is a JSON object.

    Raises:
        InputError: unreadable input; the message names file and line.
    """
    settings = checkpoint.task_settings
    first, second = settings.get("text_column", "text"), settings.get("text_pair_column")
    if source != STANDARD_INPUT and is_table(source):
        yield from read_rows(source, settings.get("column_names"))
        return
    for place, line in read_lines(source):
        if source == STANDARD_INPUT and line.startswith("{"):
            yield json_row(place, line)
        elif second is None:
            yield Row(place, {first: line})
        elif "\t" in line:
            yield Row(place, dict(zip((first, second), line.split("\t", 1), strict=True)))
        else:
            raise InputError(f"{place}: this model takes two texts, separated by a tab")
