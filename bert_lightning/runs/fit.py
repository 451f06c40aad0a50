"""`fit`: find or make the run directory, train, and record how it ended."""

import dataclasses
import errno
import importlib.util
import math
import os
import uuid
from collections.abc import Sequence
from contextlib import closing, nullcontext, suppress
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.accelerators import CUDAAccelerator
from lightning.pytorch.plugins.environments import SLURMEnvironment

from bert_lightning.checkpoints import hub
from bert_lightning.checkpoints.checkpoint import Checkpoint
from bert_lightning.checkpoints.native import BEST, ENTRY, LAST, find_native, load_native, weights_digest
from bert_lightning.config.experiment import Experiment
from bert_lightning.config.settings import with_literal_variables
from bert_lightning.data.loading.module import StepDataModule
from bert_lightning.errors import InputError, Interrupted, WorkError
from bert_lightning.runs import weights_and_biases
from bert_lightning.runs.building import build
from bert_lightning.runs.directory import RunDirectory, circumstances, now
from bert_lightning.runs.doctor import has_fast_bfloat16
from bert_lightning.runs.evaluation_files import write_evaluation
from bert_lightning.runs.lock import DirectoryLock
from bert_lightning.runs.processes import is_first_process
from bert_lightning.runs.starting_point import start_checkpoint
from bert_lightning.runs.trainer import build_trainer, training_callbacks
from bert_lightning.tasks.fine_tuning.task import FineTuningTask
from bert_lightning.tasks.task import Task
from bert_lightning.training import metrics_file
from bert_lightning.training.checkpointing import newest_valid, set_aside
from bert_lightning.training.metrics_file import MetricsFile
from bert_lightning.training.micro_batch import LargestMicroBatch
from bert_lightning.training.profiling import Profiling
from bert_lightning.training.signals import StoppedBySignal, as_before

# Processes that Lightning starts for the other ranks learn from the first one where the run is.
_DIRECTORY_VARIABLE = "BERT_LIGHTNING_RUN_DIRECTORY"
FINISHED = "finished"
# Compiling takes about a minute, which a tenth saved of each step must repay.
STEPS_THAT_REPAY_COMPILING = 2_000
_COST_ON_GPU = "slower gradients of embeddings and attention (--profile shows them)"
# What a run may go on with otherwise: how the same steps are shared out and kept, not what they are.
MAY_CHANGE = {
    *(f"trainer.{key}" for key in ("devices", "num_nodes", "strategy", "tensor_parallel_size")),
    *(f"trainer.{key}" for key in ("accumulate_grad_batches", "timeout_seconds")),
    *(f"checkpoint.{key}" for key in ("every_n_steps", "keep_last", "keep_every_n_steps", "asynchronous", "sharded")),
    "data.num_workers",
}
# Keys of an optimiser's group that say where training stands or how it is computed.
_CHANGING = {"params", "lr", "fused", "foreach", "capturable", "differentiable"}


def fit(
    experiment: Experiment,
    directory: RunDirectory,
    resume: str,
    *,
    profile: bool = False,
    expected_data: dict[str, str] | None = None,
    micro_batches: int | None = None,
) -> dict[str, float] | None:
    """Train an experiment in its directory; the last validation's metrics, or None if it was finished before.

    `resume`: `auto` goes on from the newest valid checkpoint of the directory, `never` starts anew, a path goes on
    from that checkpoint. `profile` records some steps into the directory's `profile`. `expected_data` are
    fingerprints that the data must have; `micro_batches`, of a step over all processes, are what another run found.
    Nothing is written before all that can be checked is checked.

    Raises:
        InputError: the directory holds another experiment, another process trains there, the data changed since, or
            the parts do not fit.
        StoppedBySignal: a signal ended training; the checkpoint is written.
    """
    with closing(DirectoryLock(directory.path)) as lock, as_before():
        if directory.exists and is_first_process():
            lock.take()
        return _fit(experiment, directory, resume, lock, profile, expected_data, micro_batches)


def _fit(
    experiment: Experiment,
    directory: RunDirectory,
    resume: str,
    lock: DirectoryLock,
    profile: bool,
    expected_data: dict[str, str] | None,
    micro_batches: int | None,
) -> dict[str, float] | None:
    os.environ[_DIRECTORY_VARIABLE] = str(directory.path)
    experiment, start = _pinned(settle_precision(experiment, directory), directory)
    values = experiment.to_dict()
    if is_first_process() and directory.exists:
        resolved = with_literal_variables(values)
        before = directory.read_config()
        differing = [key for key in _differing(before, resolved) if not _may_change(key, before, resolved)]
        if differing:
            raise InputError(
                f"{directory.path} holds a run with other settings ({', '.join(differing)}): choose another directory"
            )

    setup = build(experiment, start)
    data, task = setup.data, setup.task
    origin = start.provenance if start is not None else None
    fingerprints = data.fingerprints if origin is None else {**data.fingerprints, "model": origin.digest}
    manifest = directory.read_manifest()
    if expected_data not in (None, fingerprints):
        raise InputError(f"{directory.path}: the data or the model to start from is no longer what the run had")
    if manifest.get("data", fingerprints) != fingerprints:
        raise InputError(
            f"the data or the model to start from changed since {directory.path} was started: to train on what there "
            "is now, choose another directory, or --resume never"
        )
    if resume == "auto" and manifest.get("ended") == FINISHED:
        return None

    steps = data.plan.num_steps
    checkpoint = _resume_from(directory, resume)
    position = _check_resume(checkpoint, task, steps) if checkpoint is not None else 0
    validates = data.num_evaluation_samples("validation") > 0
    callbacks = training_callbacks(experiment, task, directory.checkpoints, steps, validates=validates)
    if experiment.trainer.accumulate_grad_batches == "auto":
        callbacks.append(_micro_batch(experiment, data, directory, manifest.get("micro_batches", micro_batches)))
    if profile and is_first_process():
        callbacks.append(Profiling(directory.path / "profile"))
    compiled = compiles(experiment, steps)
    trainer = trained = build_trainer(
        experiment, directory.path, [], steps=steps, callbacks=callbacks, compiled=compiled
    )
    data.check_shares(experiment.trainer.num_shares)
    weights_and_biases.chosen_mode(experiment.wandb)

    run_id = manifest.get("run_id") or f"{experiment.identity}-{uuid.uuid4().hex[:6]}"
    loggers: list[Any] = [MetricsFile(directory.path)]
    if is_first_process():
        _prepare_directory(
            directory,
            lock,
            values,
            run_id,
            checkpoint,
            position,
            fingerprints,
            origin.revision if origin is not None else None,
        )
        loggers += weights_and_biases.wandb_logger(experiment, directory.path, run_id)
        if experiment.trainer.deterministic:
            on_gpu = isinstance(trainer.accelerator, CUDAAccelerator)
            print(f"deterministic algorithms: {_COST_ON_GPU if on_gpu else 'no cost on a processor'}")
        for note in setup.notes:
            print(note)
        print(
            f"{experiment.experiment}: {_parameters(task)}, {data.num_training_samples:,} training samples, "
            f"{steps:,} steps of {data.batch_size}" + (f", from step {position:,}" if position else ""),
            flush=True,
        )
    trainer.loggers = loggers
    if compiled:
        task.compile_training(blocks_alone=experiment.trainer.strategy == "fsdp")
    ending = "failed"
    try:
        trainer.fit(task, data, ckpt_path=checkpoint)
        if validates and not trainer.callback_metrics:
            # Killed behind its last checkpoint: what was known of the last validation beside its scores went with it.
            trainer = build_trainer(experiment, directory.path, [])
            trainer.validate(task, data, verbose=False)
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if is_first_process():
            _write_last_validation(directory, task, metrics)
            last = directory.checkpoints / LAST
            final = last.resolve() if last.exists() else checkpoint
            assert final is not None, "training began with one or wrote one"
            directory.update_manifest(weights=weights_digest(final))
        ending = FINISHED
    except StoppedBySignal as stop:
        ending = str(stop)
        raise
    except Interrupted:
        ending = "interrupted"
        raise
    finally:
        if is_first_process():
            # What ended training is the message, also where its disk is full.
            with nullcontext() if ending == FINISHED else suppress(OSError):
                _record_end(directory, ending, trained.global_step)
            weights_and_biases.finish(ending == FINISHED)
    return metrics


def settle_precision(experiment: Experiment, directory: RunDirectory) -> Experiment:
    """`auto` as what is fastest here; a run that goes on keeps what it began with."""
    settings = experiment.trainer
    if settings.precision != "auto":
        return experiment
    before = directory.read_config().get("trainer", {}).get("precision") if directory.exists else None
    # An accelerator that is not used says nothing.
    precision: Any = before or ("bf16-mixed" if has_fast_bfloat16(settings.accelerator) else "32")
    return dataclasses.replace(experiment, trainer=dataclasses.replace(settings, precision=precision))


def compiles(experiment: Experiment, steps: int) -> bool:
    """Whether the training step is compiled: `auto` does where that was found to pay."""
    settings = experiment.trainer
    if settings.compile != "auto":
        return settings.compile
    on_gpu = torch.cuda.is_available() and settings.accelerator != "cpu" and settings.strategy != "fsdp"
    return on_gpu and steps >= STEPS_THAT_REPAY_COMPILING and importlib.util.find_spec("triton") is not None


def _micro_batch(
    experiment: Experiment, data: StepDataModule, directory: RunDirectory, known: int | None
) -> LargestMicroBatch:
    """What settles `trainer.accumulate_grad_batches: auto`.

    Raises:
        InputError: the batch size changes on the way, or cannot be shared out over the ranks.
    """
    if len(data.batch_shares) > 1:
        raise InputError("trainer.accumulate_grad_batches auto does not go with data.stages: give each stage its own")
    world_size = experiment.trainer.num_processes

    def chosen(number: int) -> None:
        if is_first_process():
            directory.update_manifest(micro_batches=number * world_size)

    # With another number of processes each takes its share of those that were found.
    shared_out = known is not None and known % world_size == 0
    return LargestMicroBatch(
        data.batch_size // world_size, known // world_size if known and shared_out else None, chosen
    )


def _write_last_validation(directory: RunDirectory, task: Task, metrics: dict[str, float]) -> None:
    """Predictions and report of the validation after the last step."""
    if isinstance(task, FineTuningTask) and task.evaluation is not None:
        scores = {name: value for name, value in metrics.items() if name.startswith("val/")}
        report = write_evaluation(directory.predictions, "validation", task, task.evaluation, scores)
        if report is not None:
            weights_and_biases.log_report(report)


def _pinned(experiment: Experiment, directory: RunDirectory) -> tuple[Experiment, Checkpoint | None]:
    """The experiment with the commit of the hub model it starts from, and that model.

    A run that goes on takes the commit it began with.
    """
    name = experiment.model.pretrained
    if name is not None and directory.exists:
        before = directory.read_config().get("model", {}).get("pretrained")
        if isinstance(before, str) and hub.is_pinned_form(name, before):
            experiment = _with_pretrained(experiment, before)
    start = start_checkpoint(experiment.model)
    revision = start.provenance.revision if start is not None and start.provenance is not None else None
    if revision is not None and experiment.model.pretrained is not None:
        experiment = _with_pretrained(experiment, hub.pinned(experiment.model.pretrained, revision))
    return experiment, start


def _with_pretrained(experiment: Experiment, name: str) -> Experiment:
    return dataclasses.replace(experiment, model=dataclasses.replace(experiment.model, pretrained=name))


def choose_directory(experiment: Experiment, given: Path | None, resume: str) -> RunDirectory:
    """The given directory, or the one that the configuration decides; `never` counts on to a free one.

    Raises:
        InputError: `never` with a directory that holds a run, or a directory with other files in it.
    """
    if _DIRECTORY_VARIABLE in os.environ and not is_first_process():
        return RunDirectory(os.environ[_DIRECTORY_VARIABLE])
    base = Path("runs") / experiment.experiment / experiment.identity
    if not is_first_process():
        # torchrun and srun start all processes at once: the first one checks, the others follow.
        return RunDirectory(given or base)
    if resume == "never" and given is None and ("TORCHELASTIC_RUN_ID" in os.environ or SLURMEnvironment.detect()):
        raise InputError(
            "--resume never under torchrun or srun needs --run-directory, so that all processes agree on it"
        )
    if given is not None:
        directory = RunDirectory(given)
        if directory.exists and resume == "never":
            raise InputError(f"{given} holds a run already, and --resume never starts a new one")
        if not directory.exists and not directory.is_free:
            raise InputError(f"{given} is not empty and no run directory: choose another --run-directory")
        return directory
    directory = RunDirectory(base)
    number = 2
    while resume == "never" and directory.exists:
        directory = RunDirectory(base.with_name(f"{base.name}-{number}"))
        number += 1
    return directory


def _resume_from(directory: RunDirectory, resume: str) -> Path | None:
    if resume == "never":
        return None
    if resume == "auto":
        return newest_valid(directory.checkpoints)
    checkpoint = find_native(Path(resume), (LAST, BEST))
    if checkpoint is None:
        raise InputError(f"--resume {resume}: neither auto nor never, and no checkpoint lies there")
    return checkpoint


def _check_resume(checkpoint: Path, task: Task, steps: int) -> int:
    """The step of a checkpoint that this training can go on from.

    Raises:
        InputError: it is of another task, architecture or vocabulary, or behind the end of this training.
    """
    content = load_native(checkpoint)
    entry, own = content[ENTRY], task.checkpoint_entry()
    for key, what in {
        "task": "task",
        "config": "architecture",
        "vocabulary": "vocabulary",
        "lowercase": "casing",
    }.items():
        if entry[key] != own[key]:
            raise InputError(f"{checkpoint} cannot be resumed here: its {what} is another one")
    if entry["task_settings"].get("labels") != own["task_settings"].get("labels"):
        # Before, tags without types such as B and I were plain labels.
        hint = "; data.source_scheme none takes all tags as plain labels" if getattr(task, "spans", False) else ""
        raise InputError(f"{checkpoint} cannot be resumed here: its labels are other ones{hint}")
    if content["global_step"] > steps:
        raise InputError(f"{checkpoint} is at step {content['global_step']}, behind the {steps} of this training")
    saved_in = {tensor.dtype for name, tensor in content["state_dict"].items() if name.startswith("model.")}
    if ({torch.bfloat16} == saved_in) != (task.model.backbone.embeddings.word.weight.dtype == torch.bfloat16):
        raise InputError(f"{checkpoint} cannot be resumed here: bf16-true and other precisions keep other weights")
    own_groups = task.configure_optimizers()["optimizer"].param_groups
    _check_optimizer(checkpoint, content["optimizer_states"][0]["param_groups"], own_groups)
    return int(content["global_step"])


def _check_optimizer(checkpoint: Path, saved: list[dict[str, Any]], own: list[dict[str, Any]]) -> None:
    """A checkpoint brings its groups along: other rates would silently be ignored, other groups mix up the moments.

    Raises:
        InputError: the optimisers differ.
    """
    here = f"{checkpoint} cannot be resumed here: its optimiser"
    for key in ("betas", "momentum", "bias_correction", "layer_adaptation"):
        if (key in saved[0]) != (key in own[0]):
            raise InputError(f"{here} is another one")
    if [len(group["params"]) for group in saved] != [len(group["params"]) for group in own]:
        raise InputError(f"{here} has other groups of parameters (by parameter_groups, freeze or weight decay)")
    for its, mine in zip(saved, own, strict=True):
        for key in mine:
            if key in its and key not in _CHANGING and its[key] != mine[key]:
                raise InputError(f"{here} has another {key}: {its[key]}, not {mine[key]}")


def _parameters(task: Task) -> str:
    """How many there are and, where it is not all of them or not at once, how many train and when."""
    every = sum(parameter.numel() for parameter in task.model.parameters())
    trained = sum(parameter.numel() for parameter in task.model.parameters() if parameter.requires_grad)
    text = f"{every:,} parameters"
    if trained != every:
        text += f" ({trained:,} trained)"
    assert task.optimization is not None
    [_, *layers] = sorted({0, *task.optimization.releases.values()})
    released = [step for step in layers if step < task.optimization.num_steps]
    if released:
        text += f" (the head alone at first, {len(released)} of {len(layers)} layers by step {released[-1]:,})"
    return text


def _prepare_directory(
    directory: RunDirectory,
    lock: DirectoryLock,
    values: dict[str, Any],
    run_id: str,
    checkpoint: Path | None,
    position: int,
    data: dict[str, str],
    revision: str | None,
) -> None:
    known = lock.taken
    try:
        lock.take()
        if directory.exists and not known:
            raise InputError(f"{directory.path}: another command began a run there just now: give this one again")
        manifest = directory.read_manifest()
        directory.remove_leftovers()
        directory.write_config(values)
        if directory.metrics.exists():
            metrics_file.forget_after(directory.metrics, position)
        if directory.checkpoints.exists():
            set_aside(directory.checkpoints, position)
        session = {
            "started": now(),
            "resumed_from": str(checkpoint) if checkpoint is not None else None,
            "settings": {key: values[key.partition(".")[0]][key.partition(".")[2]] for key in sorted(MAY_CHANGE)},
            **circumstances(),
        }
        directory.update_manifest(
            run_id=run_id,
            experiment=values["experiment"],
            task=values["task"],
            seed=values["seed_everything"],
            data=data,
            model_revision=revision,
            started=manifest.get("started", session["started"]),
            ended=None,
            sessions=[*manifest.get("sessions", []), session],
        )
    except OSError as error:
        wrong_path = isinstance(error, NotADirectoryError | FileExistsError | IsADirectoryError)
        kind = InputError if wrong_path or error.errno == errno.ENAMETOOLONG else WorkError
        raise kind(f"{directory.path}: cannot be written: {error.strerror or error}") from None


def _record_end(directory: RunDirectory, ending: str, step: int) -> None:
    sessions = directory.read_manifest()["sessions"]
    sessions[-1] |= {"finished": now(), "ended": ending, "step": step}
    directory.update_manifest(sessions=sessions, ended=ending, step=step)


def _may_change(key: str, old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Whether a run continues although this setting has another value.

    Tags that were plain labels by their looks may be named so: `data.source_scheme` becomes `none`. Where they marked
    spans, the labels of the checkpoint differ, which is refused.
    """
    if key == "data.source_scheme":
        return bool((old["data"].get("source_scheme"), new["data"].get("source_scheme")) == ("auto", "none"))
    return key in MAY_CHANGE


def _differing(old: Any, new: Any, path: str = "") -> Sequence[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            key
            for name in sorted({*old, *new})
            for key in _differing(old.get(name), new.get(name), f"{path}.{name}" if path else name)
        ]
    same = old == new or (isinstance(old, float) and isinstance(new, float) and math.isclose(old, new))
    return [] if same else [path]
