"""The record of a run on disk: its configuration, manifest, logs and results, from its start to its end."""

import errno
import logging
import math
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from lightning import Callback, Trainer
from lightning.pytorch.loggers import Logger

from bert_lightning.checkpoints.checkpoint import Checkpoint
from bert_lightning.checkpoints.delta import joined
from bert_lightning.checkpoints.digests import current_form, weights_digest
from bert_lightning.checkpoints.native import LAST, read_native
from bert_lightning.checkpoints.provenance import Provenance
from bert_lightning.checks import class_path
from bert_lightning.config.experiment import Experiment
from bert_lightning.config.nested import at
from bert_lightning.data.loading.module import StepDataModule
from bert_lightning.distributed.slices import whole_shape
from bert_lightning.errors import InputError, Interrupted, WorkError
from bert_lightning.runs import weights_and_biases
from bert_lightning.runs.directory import RunDirectory, circumstances, now
from bert_lightning.runs.ensemble_teachers import SETTINGS
from bert_lightning.runs.evaluation_files import write_evaluation
from bert_lightning.runs.git_state import recorded_git_state
from bert_lightning.runs.lock import DirectoryLock
from bert_lightning.runs.own_code import changed_modules, recorded_modules
from bert_lightning.runs.processes import is_first_process
from bert_lightning.runs.resuming import MAY_CHANGE, ResumePoint
from bert_lightning.tasks.fine_tuning.task import FineTuningTask
from bert_lightning.tasks.task import Task
from bert_lightning.training import metrics_file
from bert_lightning.training.checkpoint_folder import set_aside
from bert_lightning.training.signals import StoppedBySignal

log = logging.getLogger(__name__)
FINISHED = "finished"
# Entry of a session: the classes of the callbacks and loggers that a Python program gave.
GIVEN = "given_in_python"
# Entry of a session: the user's modules that it took code from.
MODULES = "own_modules"
# Entry of a session: its group, type and tags in W&B.
WANDB = "wandb"


# The first word of a fingerprint -> what it identifies, for messages; all others are splits.
_KINDS = {
    "model": "the model to start from",
    "teacher": "the {}",
    "labeller": "the {}",
    "previous": "the run of the previous task",
    "information": "the information of the run of the previous task",
    "masked": "the texts of masked_words",
}


def is_split(name: str) -> bool:
    """Return whether a fingerprint of the manifest is that of a split, and not that of a model or an earlier run.

    >>> is_split("train"), is_split("teacher first")
    (True, False)
    """
    return name.partition(" ")[0] not in _KINDS


@dataclass(frozen=True)
class Inputs:
    """The data of a training and the pre-trained weights that it starts from, as the manifest identifies them.

    Attributes:
        fingerprints: split -> fingerprint of its data; `model` -> SHA-256 of the weights to start from; `teacher`,
            `teacher NAME` and `labeller NAME` -> those of other models, and `teacher NAME: settings` -> that of what
            else decides their answers; `previous` and `information` -> those of the
            run of the task before.
        model_revision: commit of the hub model to start from.
        start: the checkpoint that training starts from.
    """

    fingerprints: dict[str, str]
    model_revision: str | None
    start: Checkpoint | None = None

    @classmethod
    def of(
        cls,
        data: StepDataModule,
        start: Checkpoint | None,
        teacher: Provenance | None = None,
        others: Mapping[str, str] = MappingProxyType({}),
    ) -> "Inputs":
        """Identify the data, the checkpoint that training starts from, the teacher, and `others`."""
        origin = start.provenance if start is not None else None
        fingerprints = data.fingerprints | ({"teacher": teacher.digest} if teacher is not None else {}) | {**others}
        if origin is None:
            return cls(fingerprints, None)
        return cls({**fingerprints, "model": origin.digest}, origin.revision, start)

    def check(self, directory: RunDirectory, expected: Mapping[str, str] | None) -> None:
        """Check that the inputs are those that the directory's run began with.

        Args:
            directory: the directory to train in.
            expected: fingerprints of another run that this one repeats.

        Raises:
            InputError: the data or the model changed.
        """
        if expected is not None and (others := self._others(expected)):
            raise InputError(f"{directory.path}: {others} changed since the run that is to be repeated")
        if others := self._others(directory.read_manifest().get("data", self.fingerprints)):
            raise InputError(
                f"{others} changed since {directory.path} was started: to train with them as they are now, choose "
                "another directory or use `--resume never`"
            )

    def _others(self, recorded: Mapping[str, str]) -> str:
        """Name the inputs that differ from recorded ones; empty if none does.

        Earlier versions computed the SHA-256 of the weights in another way.
        """
        fingerprints = dict(recorded)
        if self.start is not None and "model" in fingerprints:
            fingerprints["model"] = current_form(fingerprints["model"], self.start.tensors)
        names = [*self.fingerprints, *(name for name in fingerprints if name not in self.fingerprints)]
        # Manifests of earlier versions identify several teachers by their weights alone.
        names = [name for name in names if name in fingerprints or not name.endswith(SETTINGS)]
        differing = [name for name in names if fingerprints.get(name) != self.fingerprints.get(name)]
        owners = dict.fromkeys(name.removesuffix(SETTINGS) for name in differing)
        return ", ".join(_KINDS.get(name.partition(" ")[0], "the {} data").format(name) for name in owners)


@dataclass(frozen=True)
class Session:
    """One call of `fit`, as the manifest records it.

    Attributes:
        directory: the run's directory.
        experiment: its settings, after `settle`.
        run_id: the same for all sessions of a run, also in W&B.
        inputs: the data, and the pre-trained weights that training starts from.
        point: the step and the checkpoint from which this session resumes, if any.
        callbacks: objects that a Python program gave, beside those of the settings.
        given_loggers: loggers that it gave.
    """

    directory: RunDirectory
    experiment: Experiment
    run_id: str
    inputs: Inputs
    point: ResumePoint
    callbacks: tuple[Callback, ...] = ()
    given_loggers: tuple[Logger, ...] = ()

    @property
    def given(self) -> dict[str, list[str]]:
        """The classes of the objects that a Python program gave; the kinds of which it gave none are left out."""
        kinds: dict[str, tuple[object, ...]] = {"callbacks": self.callbacks, "loggers": self.given_loggers}
        return {kind: [class_path(type(each)) for each in objects] for kind, objects in kinds.items() if objects}


def run_id_of(directory: RunDirectory, experiment: Experiment) -> str:
    """Return the id of the run in a directory, or a new one that begins with the identity of the configuration.

    The directory holds the id, so a resumed run stays the same run in W&B, even if its directory has moved. The id
    has a random part. So a run that was deleted and repeated is a new run in W&B, and appends nothing to the old one.
    A worker of a W&B sweep gets the id of a new run from W&B.
    """
    of_sweep = os.environ.get("WANDB_RUN_ID") if os.environ.get("WANDB_SWEEP_ID") else None
    new = of_sweep or f"{experiment.identity}-{uuid.uuid4().hex[:6]}"
    return directory.read_manifest().get("run_id") or new


@contextmanager
def recording(session: Session, lock: DirectoryLock, trainer: Trainer) -> Iterator[None]:
    """Prepare the directory of a run; on leaving, record how training ended and close W&B.

    Only the first process writes.

    Raises:
        InputError: another process trains in the directory, or its path cannot be a directory.
        WorkError: the directory cannot be written.
    """
    if not is_first_process():
        yield
        return
    _begin(session, lock, trainer.max_steps)
    ending, message = "failed", None
    try:
        with weights_and_biases.data_folder(session.directory.path / "wandb"):
            yield
        ending = FINISHED
    except StoppedBySignal as stop:
        ending = str(stop)
        raise
    except Interrupted:
        ending = "interrupted"
        raise
    except Exception as error:
        message = str(error) if isinstance(error, WorkError | InputError) else f"{type(error).__name__}: {error}"
        raise
    finally:
        try:
            # On a full disk, this record fails too. The error that ended training must be the one that is reported.
            with nullcontext() if ending == FINISHED else suppress(OSError):
                _record_end(session.directory, ending, trainer.global_step, message)
        finally:
            weights_and_biases.finish(ending == FINISHED)


def record_result(session: Session, task: Task, metrics: dict[str, float]) -> None:
    """Write the files of the last validation; record the SHA-256 of the weights and the numbers of parameters."""
    if not is_first_process():
        return
    directory = session.directory
    _write_last_validation(directory, task, metrics)
    last = directory.checkpoints / LAST
    final = last.resolve() if last.exists() else session.point.checkpoint
    assert final is not None, "training began with a checkpoint or wrote one"
    saved, start = read_native(final), session.inputs.start
    if saved.base is not None and start is not None:
        saved = joined(saved, saved.base, start.tensors)
    num_parameters = sum(tensor.numel() for tensor in saved.tensors.values())
    trained = [parameter for parameter in task.model.parameters() if parameter.requires_grad]
    directory.update_manifest(
        weights=weights_digest(saved.tensors),
        parameters=num_parameters,
        trained_parameters=sum(math.prod(whole_shape(parameter)) for parameter in trained),
    )


def _begin(session: Session, lock: DirectoryLock, num_steps: int) -> None:
    """Lock the directory, set aside what is after the resume point, and write the first records."""
    directory = session.directory
    was_taken = lock.taken
    try:
        lock.take()
        if directory.exists and not was_taken:
            raise InputError(f"{directory.path}: another command has just begun a run there: run this command again")
        directory.remove_leftovers()
        directory.write_config(session.experiment.to_dict())
        if directory.metrics.exists():
            metrics_file.forget_after(directory.metrics, session.point.step)
        if directory.checkpoints.exists():
            set_aside(directory.checkpoints, session.point.step)
        _record_beginning(session, num_steps)
    except OSError as error:
        wrong_path = isinstance(error, NotADirectoryError | FileExistsError | IsADirectoryError)
        kind = InputError if wrong_path or error.errno == errno.ENAMETOOLONG else WorkError
        raise kind(f"{directory.path}: cannot be written: {error.strerror or error}") from None


def _record_beginning(session: Session, num_steps: int) -> None:
    directory, values, checkpoint = session.directory, session.experiment.to_dict(), session.point.checkpoint
    manifest = directory.read_manifest()
    modules = recorded_modules(session.experiment, (*session.callbacks, *session.given_loggers))
    entry = {
        "started": now(),
        "resumed_from": str(checkpoint) if checkpoint is not None else None,
        "settings": {key: at(values, key) for key in sorted(MAY_CHANGE)},
        WANDB: weights_and_biases.Membership.of_experiment(session.experiment).to_dict(),
        **circumstances(),
        "git": recorded_git_state(directory.path),
        **({GIVEN: session.given} if session.given else {}),
        **({MODULES: modules} if modules else {}),
    }
    _warn_of_changed_modules(directory, manifest, modules)
    directory.update_manifest(
        run_id=session.run_id,
        experiment=values["experiment"],
        task=values["task"],
        seed=values["seed_everything"],
        data=session.inputs.fingerprints,
        model_revision=session.inputs.model_revision,
        num_steps=num_steps,
        started=manifest.get("started", entry["started"]),
        ended=None,
        sessions=[*manifest.get("sessions", []), entry],
    )


def _warn_of_changed_modules(
    directory: RunDirectory, manifest: Mapping[str, Any], modules: Mapping[str, Mapping[str, object]]
) -> None:
    for session in manifest.get("sessions", [])[-1:]:
        for name in changed_modules(session.get(MODULES, {}), modules):
            log.warning(
                "%s: the module %s has changed since the run was interrupted: the run continues with the new code",
                directory.path,
                name,
            )


def _record_end(directory: RunDirectory, ending: str, step: int, error: str | None) -> None:
    sessions = directory.read_manifest()["sessions"]
    sessions[-1] |= {"finished": now(), "ended": ending, "step": step}
    if error is not None:
        sessions[-1]["error"] = error
    directory.update_manifest(sessions=sessions, ended=ending, step=step)


def _write_last_validation(directory: RunDirectory, task: Task, metrics: dict[str, float]) -> None:
    """Write predictions and report of the validation after the last step."""
    if isinstance(task, FineTuningTask) and task.evaluation is not None:
        scores = {name: value for name, value in metrics.items() if name.startswith("val/")}
        write_evaluation(directory.predictions, "validation", task, task.evaluation, scores)
        weights_and_biases.log_last_validation(directory.predictions)
