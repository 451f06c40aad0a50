"""Tasks and data as a user takes them into a plain `lightning.Trainer`."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from lightning import Trainer

import bert_lightning
from bert_lightning.data.loading.module import StepDataModule
from bert_lightning.tasks.task import Task
from tests.support.small_corpus import SMALL_MODEL
from tests.support.task_data import short_experiment

QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "devices": 1,
    "logger": False,
    "enable_checkpointing": False,
    "enable_model_summary": False,
    "enable_progress_bar": False,
}
NUM_STEPS = 4


def trainer(**flags: Any) -> Trainer:
    """Make a Trainer that writes nothing and trains one epoch, with some flags of a user."""
    return Trainer(**QUIET | {"max_epochs": 1} | flags)


@dataclass(frozen=True)
class Plain:
    """Makes tasks, data and Trainers for a test of plain Lightning.

    Attributes:
        name: the task of `make`, unless it names another.
        values: task -> its experiment.
        folder: an empty folder, which is the current one.
        patch: replaces attributes for the test.
    """

    name: str
    values: dict[str, dict[str, Any]]
    folder: Path
    patch: pytest.MonkeyPatch

    def make(self, task_class: type[Task] | None = None, **overrides: Any) -> tuple[Task, StepDataModule]:
        """Build task and data; double underscores in overrides stand for dots."""
        dotted = {name.replace("__", "."): value for name, value in overrides.items()}
        task, data = bert_lightning.build(self.values[self.name], dotted)
        if task_class is not None:
            task.__class__ = task_class
        return task, data

    def fit(self, task_class: type[Task] | None = None, steps: int = NUM_STEPS, **flags: Any) -> tuple[Task, Trainer]:
        """Train with some flags of a user, and return the trained task and its Trainer."""
        task, data = self.make(task_class, trainer__max_steps=steps)
        fitted = trainer(**flags)
        fitted.fit(task, data)
        return task, fitted


def experiment_values(
    name: str, stores: tuple[Path, Path], tables: dict[str, Path], tokenizer: Path, folder: Path
) -> dict[str, Any]:
    """Return the experiment of a task that trains in a tenth of a second."""
    values = short_experiment(name, stores, tables, folder)
    trainer = {"max_steps": NUM_STEPS, "accelerator": "cpu", "precision": "32", "log_every_n_steps": 1}
    values |= {"model": SMALL_MODEL, "trainer": trainer}
    if name == "pretraining":
        values["data"] |= {"test": str(stores[1]), "max_evaluation_samples": 24}
    else:
        values["data"]["tokenizer"] = str(tokenizer)
    values["data"] |= {"evaluation_batch_size": 8, "num_workers": 0}
    return values


Row = Callable[[Plain], object]
