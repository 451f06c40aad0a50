"""Training from Python: `fit`, which does what the command does, and `build`, which returns task and data."""

import os
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from lightning import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.environments import SLURMEnvironment

from bert_lightning.checkpoints.native import LAST, find_native
from bert_lightning.checkpoints.reading import read_checkpoint
from bert_lightning.config.experiment import Experiment, load_experiment
from bert_lightning.config.layers import Overrides, Source
from bert_lightning.data.loading.module import StepDataModule
from bert_lightning.errors import InputError
from bert_lightning.runs.auto_settings import settle
from bert_lightning.runs.building import build_training
from bert_lightning.runs.directory import RunDirectory, choose_directory
from bert_lightning.runs.fit import train
from bert_lightning.runs.predictor import Predictor
from bert_lightning.runs.processes import is_first_process
from bert_lightning.runs.sequence_end import SequenceScores
from bert_lightning.tasks.rebuilding import task_of
from bert_lightning.tasks.task import Task
from bert_lightning.training.signals import keyboard_interrupts

# Training uses the random numbers, threads and signal handlers of the whole process.
_TRAINING = threading.Lock()


@dataclass(frozen=True)
class Run:
    """A finished training.

    Attributes:
        directory: the run directory.
        metrics: those of the last validation, such as `val/accuracy`; empty without validation.
        experiment: the settings as given.
        was_finished: whether the run had finished before this call, which then trained nothing.
    """

    directory: Path
    metrics: dict[str, float]
    experiment: Experiment = field(repr=False)
    was_finished: bool = False

    @cached_property
    def task(self) -> Task:
        """The trained task, on the processor and in evaluation mode, with the weights after the last step.

        `metrics` are the scores of these weights. The first use reads the last checkpoint. With `checkpoint.monitor`
        the best checkpoint may be another one, which `bert_lightning.load(run.directory)` opens.
        """
        path = find_native(self.directory, (LAST,))
        if path is None:
            raise InputError(f"{self.directory} has no checkpoint any more")
        return task_of(read_checkpoint(path)).eval()

    def predict(self, items: Iterable[object]) -> list[dict[str, Any]]:
        """Predict from raw input with `task`: one prediction per text, pair of texts, or dictionary of columns.

        Raises:
            InputError: an item lacks what the model needs; the message names the item.
        """
        return Predictor(self.task).predict(items)


def fit(
    experiment: Source | Sequence[Source] | Experiment,
    overrides: Overrides | None = None,
    *,
    callbacks: Sequence[Callback] = (),
    loggers: Sequence[Logger] = (),
    run_directory: str | Path | None = None,
    resume: str | Path = "auto",
    profile: bool = False,
    allow_modules: Sequence[str] = (),
) -> Run:
    """Train an experiment as `bert-lightning fit` does: the same directory, files, resuming and result.

    A run that was interrupted continues from its newest checkpoint, and a finished one is returned at once.

    Args:
        experiment: a YAML file, a mapping of nested keys, a list of these, or an experiment of `load_experiment`. In
            a list, later entries win.
        overrides: dotted keys and their values, such as `{"trainer.max_steps": 100}`.
        callbacks: Lightning callbacks, in addition to those of the experiment. A run resumes bit for bit if a
            callback keeps its state in `state_dict` and draws no random numbers. The manifest records their classes.
        loggers: Lightning loggers, in addition to those of the experiment. They get the number of the optimiser step.
        run_directory: the folder of the run; `runs/<experiment>/<hash of the settings>` by default.
        resume: `auto`, `never`, which starts a new run, or the path of the checkpoint to continue from.
        profile: whether to record some steps in `profile/` of the directory.
        allow_modules: modules and packages that a `class_path` of the experiment may import.

    Returns:
        The directory, the metrics, and the trained task.

    Raises:
        InputError: a setting, the data or the directory is not usable. The message names the key or the file.
        StoppedBySignal: a signal such as Ctrl-C ended training. The checkpoint is written, and the same call
            continues.
        WorkError: a callback or another part of yours raised, or something else failed, such as a full
            disk.

    Example:
        ::

            run = bert_lightning.fit("topics.yaml", {"optimizer.learning_rate": 1e-4})
            print(run.metrics["val/accuracy"], run.predict(["The old cat sees the young dog."]))
    """
    for name, objects in (("callbacks", callbacks), ("loggers", loggers)):
        if not isinstance(objects, list | tuple):
            raise InputError(f"{name}: a list is expected, not {objects!r}")
    loaded = load_experiment(experiment, overrides, None, allow_modules)
    _check_processes(loaded)
    directory = choose_directory(loaded, Path(run_directory) if run_directory is not None else None, str(resume))
    # Without this variable the tokenizers library warns whenever a loader forks.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    with _only_training(), keyboard_interrupts():
        metrics = train(loaded, directory, str(resume), callbacks=callbacks, loggers=loggers, profile=profile)
    if metrics is None:
        return Run(directory.path, recorded_metrics(directory), loaded, was_finished=True)
    return Run(directory.path, metrics, loaded)


@contextmanager
def _only_training() -> Iterator[None]:
    """Make sure that no other training of this process runs at the same time.

    Raises:
        InputError: one does.
    """
    if not _TRAINING.acquire(blocking=False):
        raise InputError(
            "a training is already running in this process: start the second one afterwards, or in another process"
        )
    try:
        yield
    finally:
        _TRAINING.release()


def build(
    experiment: Source | Sequence[Source] | Experiment,
    overrides: Overrides | None = None,
    *,
    allow_modules: Sequence[str] = (),
) -> tuple[Task, StepDataModule]:
    """Build the task and the data of an experiment, complete, to train them with your own `lightning.Trainer`.

    The weights are those that `fit` begins with. The task has the optimiser and the schedule of the experiment, and
    the data has its length: `Trainer(max_epochs=1)` trains the steps of the experiment. Precision and devices are
    those of the Trainer.

    Args:
        experiment: as in `fit`.
        overrides: as in `fit`.
        allow_modules: as in `fit`.

    Raises:
        InputError: a setting or the data is not usable. The message names the key or the file.

    Example:
        ::

            task, data = bert_lightning.build("topics.yaml")
            lightning.Trainer(max_epochs=1).fit(task, data)
    """
    loaded, start = settle(load_experiment(experiment, overrides, None, allow_modules), None)
    setup = build_training(loaded, start)
    for note in setup.notes:
        print(note)
    return setup.task, setup.data


def recorded_metrics(directory: RunDirectory) -> dict[str, float]:
    """Return what the training of a finished run returned.

    These are the metrics of its last validation, if it had one, and the scores on all tasks of its sequence.
    """
    scores = SequenceScores.read(directory.path)
    of_tasks = scores.named() if scores is not None else {}
    validations = [
        {name: value for name, value in row.items() if name.startswith("val/")}
        for row in directory.read_metrics()
        # Rows with this key come from scoring a checkpoint after training.
        if "checkpoint" not in row
    ]
    last = [each for each in validations if each and each.keys() != of_tasks.keys()][-1:]
    return {**(last[0] if last else {}), **of_tasks}


def _check_processes(experiment: Experiment) -> None:
    """Check that the processes of a training can be started, and that this is one of them.

    Raises:
        InputError: the program is not a file, so Lightning cannot start it again. Or this process was started to
            train on several devices, and the experiment trains on one.
    """
    several = experiment.trainer.num_processes > 1
    if not several and not is_first_process():
        raise InputError(
            "this process was started to train with others, and this experiment trains in one process: train it in "
            "another program"
        )
    started = "LOCAL_RANK" in os.environ or SLURMEnvironment.detect()
    program = getattr(sys.modules["__main__"], "__file__", None)
    if several and not started and (program is None or not os.path.isfile(program)):
        raise InputError(
            f"this experiment trains in {experiment.trainer.num_processes} processes, and Lightning starts this "
            "program again for each: write it to a file, or set trainer.devices to 1"
        )
