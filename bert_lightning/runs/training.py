"""`fit`: find or make the run directory, train, and record how it ended."""

import math
import os
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bert_lightning.checkpoints.checkpoint import CheckpointError
from bert_lightning.checkpoints.native import find_native, load_native
from bert_lightning.data.module import TrainingPlan
from bert_lightning.errors import InputError
from bert_lightning.runs.building import (
    build_parts,
    build_trainer,
    num_steps,
    optimization_of,
    start_checkpoint,
    training_callbacks,
    wandb_logger,
)
from bert_lightning.runs.directory import RunDirectory, circumstances, now
from bert_lightning.runs.experiment import Experiment
from bert_lightning.training import metrics_file
from bert_lightning.training.checkpointing import newest_valid
from bert_lightning.training.metrics_file import MetricsFile
from bert_lightning.training.signals import StoppedBySignal

# Processes that Lightning starts for the other ranks learn from the first one where the run is.
_DIRECTORY_VARIABLE = "BERT_LIGHTNING_RUN_DIRECTORY"
FINISHED = "finished"


def fit(experiment: Experiment, directory: RunDirectory, resume: str) -> dict[str, float]:
    """Train an experiment in its directory; the last validation's metrics.

    `resume`: `auto` goes on from the newest valid checkpoint of the directory, `never` starts anew, a path goes on
    from that checkpoint.

    Raises:
        InputError: the directory holds another experiment, or the data changed since.
        StoppedBySignal: a signal ended training; the checkpoint is written.
    """
    is_first = int(os.environ.get("LOCAL_RANK", "0")) == 0 and int(os.environ.get("RANK", "0")) == 0
    os.environ[_DIRECTORY_VARIABLE] = str(directory.path)
    values = experiment.to_dict()
    if directory.exists and directory.read_config() != values:
        differing = ", ".join(_differing(directory.read_config(), values))
        raise InputError(f"{directory.path} holds a run with other settings ({differing}): choose another directory")

    checkpoint = _resume_from(directory, resume)
    parts = build_parts(experiment, start_checkpoint(experiment.model), training=True)
    steps = num_steps(experiment, parts.data.num_training_samples)
    plan = TrainingPlan(steps, experiment.trainer.accumulate_grad_batches, experiment.seed_everything)
    parts.data.plan = plan
    parts.task.optimization = optimization_of(experiment, steps)
    manifest = directory.read_manifest()
    if checkpoint is not None and manifest.get("data", parts.data.fingerprints) != parts.data.fingerprints:
        raise InputError(f"the data changed since {directory.path} was started: it cannot be resumed")

    run_id = manifest.get("run_id") or f"{experiment.identity}-{uuid.uuid4().hex[:6]}"
    loggers: list[Any] = [MetricsFile(directory.path)]
    if is_first:
        _prepare_directory(directory, values, run_id, checkpoint, parts.data.fingerprints)
        loggers += wandb_logger(experiment, directory.path, run_id)
    validates = parts.data.num_evaluation_samples("validation") > 0
    callbacks = training_callbacks(experiment, parts.task, directory.checkpoints, steps, validates=validates)
    trainer = build_trainer(experiment, directory.path, loggers, steps=steps, callbacks=callbacks)
    if is_first:
        parameters = sum(p.numel() for p in parts.task.model.parameters())
        for line in parts.notes:
            print(line)
        print(
            f"{experiment.experiment}: {parameters:,} parameters, {parts.data.num_training_samples:,} training "
            f"samples, {steps:,} steps of {parts.data.batch_size}"
            + (f", from step {_step_of(checkpoint):,}" if checkpoint is not None else "")
        )
    ending = "failed"
    try:
        trainer.fit(parts.task, parts.data, ckpt_path=checkpoint)
        ending = FINISHED
    except StoppedBySignal as stop:
        ending = str(stop)
        raise
    except KeyboardInterrupt:
        ending = "interrupted"
        raise
    finally:
        if is_first:
            _record_end(directory, ending, trainer.global_step)
            _finish_wandb(ending)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def choose_directory(experiment: Experiment, given: Path | None, resume: str) -> RunDirectory:
    """The given directory, or the one that the configuration decides; `never` counts on to a free one.

    Raises:
        InputError: `never` with a directory that holds a run, or a directory with other files in it.
    """
    if _DIRECTORY_VARIABLE in os.environ and os.environ.get("LOCAL_RANK", "0") != "0":
        return RunDirectory(os.environ[_DIRECTORY_VARIABLE])
    if given is not None:
        directory = RunDirectory(given)
        if directory.exists and resume == "never":
            raise InputError(f"{given} holds a run already, and --resume never starts a new one")
        if not directory.exists and given.exists() and (not given.is_dir() or any(given.iterdir())):
            raise InputError(f"{given} is not empty and no run directory: choose another --run-directory")
        return directory
    base = Path("runs") / experiment.experiment / experiment.identity
    directory = RunDirectory(base)
    number = 2
    while resume == "never" and directory.exists:
        directory = RunDirectory(base.with_name(f"{base.name}-{number}"))
        number += 1
    return directory


def is_finished(directory: RunDirectory) -> bool:
    """Whether the run in a directory reached its end."""
    return directory.read_manifest().get("ended") == FINISHED


def _resume_from(directory: RunDirectory, resume: str) -> Path | None:
    if resume == "never":
        return None
    if resume == "auto":
        return newest_valid(directory.checkpoints)
    checkpoint = find_native(Path(resume))
    if checkpoint is None:
        raise InputError(f"--resume {resume}: neither auto nor never, and no checkpoint lies there")
    load_native(checkpoint)
    return checkpoint


def _step_of(checkpoint: Path) -> int:
    return int(load_native(checkpoint)["global_step"])


def _prepare_directory(
    directory: RunDirectory,
    values: dict[str, Any],
    run_id: str,
    checkpoint: Path | None,
    data: dict[str, str],
) -> None:
    manifest = directory.read_manifest()
    try:
        directory.write_config(values)
        if directory.metrics.exists():
            metrics_file.forget_after(directory.metrics, _step_of(checkpoint) if checkpoint is not None else 0)
        session = {
            "started": now(),
            "resumed_from": str(checkpoint) if checkpoint is not None else None,
            **circumstances(),
        }
        directory.update_manifest(
            run_id=run_id,
            experiment=values["experiment"],
            task=values["task"],
            seed=values["seed_everything"],
            data=data,
            started=manifest.get("started", session["started"]),
            ended=None,
            sessions=[*manifest.get("sessions", []), session],
        )
    except OSError as error:
        raise CheckpointError(f"{directory.path} cannot be written: {error}") from None


def _record_end(directory: RunDirectory, ending: str, step: int) -> None:
    sessions = directory.read_manifest()["sessions"]
    sessions[-1] |= {"finished": now(), "ended": ending, "step": step}
    directory.update_manifest(sessions=sessions, ended=ending, step=step)


def _finish_wandb(ending: str) -> None:
    # Lightning leaves the W&B run open; a second run in this process would be logged into it.
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        wandb.finish(exit_code=0 if ending == FINISHED else 1)


def _differing(old: Any, new: Any, path: str = "") -> Sequence[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            key
            for name in sorted({*old, *new})
            for key in _differing(old.get(name), new.get(name), f"{path}.{name}" if path else name)
        ]
    same = old == new or (isinstance(old, float) and isinstance(new, float) and math.isclose(old, new))
    return [] if same else [path]
