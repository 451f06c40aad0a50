"""The training of an experiment in its directory, from the checks to the recorded result."""

import threading
from collections.abc import Sequence
from contextlib import closing

import torch
from lightning import Callback, Trainer
from lightning.pytorch.accelerators import CPUAccelerator, CUDAAccelerator
from lightning.pytorch.loggers import Logger

from bert_lightning.allocation import keep_freed_memory
from bert_lightning.config.experiment import Experiment
from bert_lightning.config.extensions import own_errors_as
from bert_lightning.cores import all_cores, sharing_note, used_by_others
from bert_lightning.errors import InputError, WorkError
from bert_lightning.runs.auto_settings import compiles, has_fast_bfloat16, largest_micro_batch, settle
from bert_lightning.runs.building import Setup, build_training
from bert_lightning.runs.continual import refuse_itself
from bert_lightning.runs.directory import RunDirectory, shared_directory
from bert_lightning.runs.finished_checkpoints import reduce_finished
from bert_lightning.runs.lock import DirectoryLock
from bert_lightning.runs.loggers import log_settings, run_loggers
from bert_lightning.runs.own_callbacks import OwnCallbacks, own_callbacks
from bert_lightning.runs.processes import is_first_process
from bert_lightning.runs.record import FINISHED, Inputs, Session, record_result, recording, run_id_of
from bert_lightning.runs.resuming import check_settings, resume_point
from bert_lightning.runs.sequence_end import finish_task
from bert_lightning.runs.trainer import build_trainer, on_gpu, training_callbacks
from bert_lightning.tasks.task import Task
from bert_lightning.training.profiling import Profiling
from bert_lightning.training.signals import restore_signal_handlers

# Whether this process has said that its cores are shared.
_TOLD = threading.Event()
_COST_ON_GPU = "slower gradients of embeddings and attention (--profile shows them)"


def train(
    experiment: Experiment,
    directory: RunDirectory,
    resume: str,
    *,
    callbacks: Sequence[Callback] = (),
    loggers: Sequence[Logger] = (),
    profile: bool = False,
    expected_data: dict[str, str] | None = None,
    micro_batches: int | None = None,
) -> dict[str, float] | None:
    """Train an experiment in its directory; return the last validation's metrics, or None if the run was finished.

    Everything that can be checked is checked before anything is written.

    Args:
        experiment: the settings.
        directory: the run's directory, which may not exist yet.
        resume: `auto` continues from the newest valid checkpoint of the directory, `never` starts a new run, a path
            continues from that checkpoint.
        callbacks: the user's objects, in addition to the callbacks of the settings.
        loggers: the user's objects, in addition to the loggers of the settings.
        profile: record some steps into the directory's `profile/`.
        expected_data: fingerprints that the data must have.
        micro_batches: number of micro-batches per step, over all processes, that an earlier run found.

    Raises:
        InputError: the directory holds another experiment, another process trains there, the data changed since, or
            settings, data and checkpoint do not fit together.
        WorkError: code of the user's raised, or something failed that is not the user's mistake.
        StoppedBySignal: a signal ended training; the checkpoint is written.
    """
    with (
        closing(DirectoryLock(directory.path)) as lock,
        restore_signal_handlers(),
        shared_directory(directory.path),
    ):
        if directory.exists and is_first_process():
            lock.take()
        experiment, start = settle(experiment, directory)
        check_settings(directory, experiment)
        refuse_itself(experiment, directory)
        is_finished = resume == "auto" and directory.read_manifest().get("ended") == FINISHED
        if is_finished:
            reduce_finished(experiment, directory)
        own = own_callbacks(experiment, callbacks)
        with own_errors_as(InputError):
            setup = build_training(experiment, start)
        inputs = Inputs.of(setup.data, start, setup.teacher, setup.fingerprints)
        inputs.check(directory, expected_data)
        if is_finished:
            return None
        point = resume_point(directory, resume, experiment, setup.task, setup.data.plan.num_steps)
        run_id = run_id_of(directory, experiment)
        session = Session(directory, experiment, run_id, inputs, point, tuple(callbacks), tuple(loggers))
        trainer = _new_trainer(session, setup, own, profile, micro_batches)
        setup.data.check_shares(experiment.trainer.num_shares)
        with recording(session, lock, trainer), own_errors_as(WorkError):
            metrics = _train(session, setup, trainer)
            record_result(session, setup.task, metrics)
            metrics |= finish_task(session, setup)
        # The training state can go only after the manifest says that the run is finished: nothing resumes it then.
        reduce_finished(experiment, directory)
        return metrics


def _new_trainer(
    session: Session, setup: Setup, own: OwnCallbacks, profile: bool, micro_batches: int | None
) -> Trainer:
    """Make the Trainer of a training, with its callbacks and loggers."""
    experiment, directory, steps = session.experiment, session.directory, setup.data.plan.num_steps
    callbacks = _training_callbacks(session, setup, own, profile, micro_batches)
    loggers = run_loggers(experiment, directory, session.run_id, session.point.step, session.given_loggers)
    compiled = compiles(experiment, steps)
    trainer = build_trainer(experiment, directory.path, loggers, steps=steps, callbacks=callbacks, compiled=compiled)
    if isinstance(trainer.accelerator, CPUAccelerator):
        keep_freed_memory()
    return trainer


def _training_callbacks(
    session: Session, setup: Setup, own: OwnCallbacks, profile: bool, micro_batches: int | None
) -> list[Callback]:
    """Make the callbacks of a training: those of every training, and those that settings and options add."""
    experiment, directory = session.experiment, session.directory
    callbacks = training_callbacks(
        experiment, setup.task, directory.checkpoints, setup.data.plan.num_steps, own, validates=_validates(setup)
    )
    if experiment.trainer.accumulate_grad_batches == "auto":
        num_micro_batches = directory.read_manifest().get("micro_batches", micro_batches)
        callbacks.append(largest_micro_batch(experiment, setup.data, directory, num_micro_batches))
    if profile and is_first_process():
        callbacks.append(Profiling(directory.path / "profile"))
    return callbacks


def _validates(setup: Setup) -> bool:
    return setup.data.num_evaluation_samples("validation") > 0


def _train(session: Session, setup: Setup, trainer: Trainer) -> dict[str, float]:
    """Announce the training, train to the end, and return the metrics of the last validation."""
    experiment, data, task = session.experiment, setup.data, setup.task
    if is_first_process():
        _announce(session, setup, trainer)
        if session.point.checkpoint is None:
            log_settings(experiment, trainer.loggers)
    if compiles(experiment, data.plan.num_steps):
        settings = experiment.trainer
        task.compile_training(
            blocks_alone=on_gpu(settings) or settings.num_processes > 1 or settings.strategy == "fsdp"
        )
    trainer.fit(task, data, ckpt_path=session.point.checkpoint)
    if _validates(setup) and not _scores(trainer):
        # The run was killed after its last checkpoint. The predictions of the last validation were lost.
        trainer = build_trainer(experiment, session.directory.path, [])
        trainer.validate(task, data, verbose=False)
    return _scores(trainer)


def _scores(trainer: Trainer) -> dict[str, float]:
    """Return the metrics of the last validation."""
    metrics = trainer.callback_metrics
    return {name: float(value) for name, value in metrics.items() if name.startswith("val/")}


def _announce(session: Session, setup: Setup, trainer: Trainer) -> None:
    """Print what is about to be trained."""
    experiment, data, step = session.experiment, setup.data, session.point.step
    if experiment.trainer.deterministic:
        on_gpu = isinstance(trainer.accelerator, CUDAAccelerator)
        print(f"deterministic algorithms: {_COST_ON_GPU if on_gpu else 'no cost on a processor'}")
    for note in (*setup.notes, *experiment.method_defaults, *_emulation(experiment), *_neighbours(trainer)):
        print(note)
    print(
        f"{experiment.experiment}: {_parameters(setup.task)}, {data.num_training_samples:,} training samples, "
        f"{setup.data.plan.num_steps:,} steps of {data.batch_size}" + (f", from step {step:,}" if step else ""),
        flush=True,
    )


def _emulation(experiment: Experiment) -> list[str]:
    """Describe what a precision costs that the device does not have in hardware."""
    settings = experiment.trainer
    if not settings.precision.startswith("bf16") or has_fast_bfloat16(settings.accelerator):
        return []
    return [f"this device emulates the bfloat16 of {settings.precision}, so 32 would be many times faster"]


def _neighbours(trainer: Trainer) -> list[str]:
    """Describe the other processes on the cores with which this training computes, if they take too much of them."""
    if _TOLD.is_set() or not isinstance(trainer.accelerator, CPUAccelerator):
        return []
    num_ranks = trainer.num_devices
    note = sharing_note(used_by_others(num_ranks=num_ranks), all_cores(), torch.get_num_threads() * num_ranks)
    if note is None:
        return []
    _TOLD.set()
    return [note]


def _parameters(task: Task) -> str:
    """Describe the number of parameters, how many of them are trained, and the schedule of gradual unfreezing."""
    total = sum(parameter.numel() for parameter in task.model.parameters())
    trained = sum(parameter.numel() for parameter in task.model.parameters() if parameter.requires_grad)
    text = f"{total:,} parameters"
    if trained != total:
        text += f" ({trained:,} trained, {100 * trained / total:.3g} %)"
    assert task.optimization is not None
    [_, *layers] = sorted({0, *task.optimization.releases.values()})
    released = [step for step in layers if step < task.optimization.num_steps]
    if released:
        text += f" (the head alone at first, {len(released)} of {len(layers)} layers by step {released[-1]:,})"
    return text
