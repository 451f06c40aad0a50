"""Resuming: which settings may change, and from which checkpoint and step training continues."""

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch

from bert_lightning.checkpoints.native import BEST, ENTRY, LAST, find_native, load_native
from bert_lightning.config.experiment import Experiment
from bert_lightning.errors import InputError
from bert_lightning.model.config import BertConfig
from bert_lightning.model.heads import LINEAR
from bert_lightning.runs.directory import RunDirectory
from bert_lightning.runs.processes import is_first_process
from bert_lightning.tasks.catalogue import task_spec
from bert_lightning.tasks.task import Task
from bert_lightning.training.checkpoint_folder import newest_valid

log = logging.getLogger(__name__)

# Settings that may change on resume. The samples of a step stay the same. Another number of processes or of
# micro-batches draws other dropout masks, so the weights then differ.
MAY_CHANGE = {
    *(f"trainer.{key}" for key in ("devices", "num_nodes", "strategy", "tensor_parallel_size")),
    *(f"trainer.{key}" for key in ("accumulate_grad_batches", "timeout_seconds", "log_norms")),
    *(f"checkpoint.{key}" for key in ("every_n_steps", "keep_last", "keep_every_n_steps", "asynchronous", "sharded")),
    "checkpoint.keep_training_state",
    "data.num_workers",
    "loggers",
}
# Keys that name a model. A resume compares the weights of the model, and not its path.
_MODELS = ("model.pretrained", "distillation.teacher", "sequence.previous")
_SEVERAL_MODELS = ("distillation.teachers.", "pseudo_labels.teachers.")
# Entries of a checkpoint that must equal those of the training -> their names in messages.
_MUST_EQUAL = {"task": "task", "vocabulary": "vocabulary", "lowercase": "casing"}
# Keys of an optimiser's group that hold the state of training, or only decide how a step is computed.
_STATE_KEYS = {"params", "lr", "fused", "foreach", "capturable", "differentiable"}
# Keys that some optimisers have and others lack. Checkpoints of earlier versions do not name their optimiser.
_TELLING_KEYS = ("betas", "momentum", "bias_correction", "layer_adaptation")
# Keys of `data` that map a step to samples.
_POSITION_KEYS = ("batch_size", "stages")


class ResumePoint(NamedTuple):
    """Where training begins."""

    checkpoint: Path | None
    """the checkpoint to continue from; None at the start of a training"""
    step: int
    """the optimiser steps already done"""


def check_settings(directory: RunDirectory, experiment: Experiment) -> None:
    """Check that a directory holds no run, or a run of the same settings except those that may change.

    Only the first process checks, because the others may already find what it has written.

    Raises:
        InputError: the directory holds a run with other settings.
    """
    if not is_first_process() or not directory.exists:
        return
    refused = [difference.key for difference in directory.differences(experiment) if not may_change(*difference)]
    if refused:
        raise InputError(
            f"{directory.path} holds a run with other settings ({', '.join(refused)}): choose another directory"
        )


def may_change(key: str, old: object, new: object) -> bool:
    """Return whether a run may resume although a setting changed.

    `data.source_scheme` may change from `auto` to `none`: earlier versions took tags such as B and I for plain labels
    under `auto`. If the tags marked spans, the labels of the checkpoint differ, which is refused later.
    Keys that name models, such as `model.pretrained` and `distillation.teacher`, may change because a model can move.
    Other weights are refused later, by their SHA-256.

    >>> may_change("trainer.devices", 1, 2), may_change("data.batch_size", 32, 64)
    (True, False)
    """
    if key == "data.source_scheme":
        return (old, new) == ("auto", "none")
    if key in _MODELS or key.startswith(_SEVERAL_MODELS):
        return old is not None and new is not None
    return key in MAY_CHANGE or key == "published" or key.startswith("wandb.")


def resume_point(directory: RunDirectory, resume: str, experiment: Experiment, task: Task, steps: int) -> ResumePoint:
    """Find the checkpoint to continue from, and check that it fits this training.

    Args:
        directory: the run's own directory.
        resume: `auto`, `never` or the path of a checkpoint, as in `fit`.
        experiment: the settings of this training.
        task: the task of this training, with its optimisation settings.
        steps: the length of this training.

    Raises:
        InputError: there is no checkpoint at the path, or it does not fit this training.
        CheckpointError: the directory has checkpoints, but all of them are damaged.
    """
    if resume == "never":
        return ResumePoint(None, 0)
    if resume == "auto":
        checkpoint = newest_valid(directory.checkpoints)
        return ResumePoint(checkpoint, _check_checkpoint(checkpoint, task, steps) if checkpoint is not None else 0)
    checkpoint = find_native(Path(resume), (LAST, BEST))
    if checkpoint is None:
        raise InputError(f"--resume is {resume}; it must be auto, never or the path of a checkpoint")
    step = _check_checkpoint(checkpoint, task, steps)
    if is_first_process():
        _warn_of_other_samples(checkpoint, experiment)
    return ResumePoint(checkpoint, step)


def _check_checkpoint(checkpoint: Path, task: Task, steps: int) -> int:
    """Return the step of a checkpoint after checking that this training can continue from it.

    Raises:
        InputError: the checkpoint has another task, architecture, vocabulary, labels, head, kind of weights or
            optimiser, or its step is after the end of this training.
    """
    content = load_native(checkpoint)
    saved, own = content[ENTRY], task.checkpoint_entry()
    if "optimizer_states" not in content:
        raise InputError(
            f"{checkpoint} cannot be resumed: it holds weights without the state of their training. Start from them "
            "with model.pretrained"
        )
    differing = [name for key, name in _MUST_EQUAL.items() if saved[key] != own[key]]
    if not _is_architecture(saved["config"], task.config):
        differing.insert(0, "architecture")
    if differing:
        raise InputError(f"{checkpoint} cannot be resumed here: its {differing[0]} differs")
    if saved["task_settings"].get("labels") != task.task_settings.get("labels"):
        # Earlier versions took tags without types, such as B and I, for plain labels.
        hint = (
            "; set data.source_scheme to none to read all tags as plain labels"
            if getattr(task, "spans", False)
            else ""
        )
        raise InputError(f"{checkpoint} cannot be resumed here: its labels differ{hint}")
    _check_tuning(checkpoint, saved, own)
    _check_head(checkpoint, content, task)
    _check_modules(checkpoint, content, task)
    step = int(content["global_step"])
    if step > steps:
        raise InputError(f"{checkpoint} is at step {step}, after the {steps} steps of this training")
    saved_in = {tensor.dtype for name, tensor in content["state_dict"].items() if name.startswith("model.")}
    if ({torch.bfloat16} == saved_in) != (task.model.backbone.embeddings.word.weight.dtype == torch.bfloat16):
        raise InputError(
            f"{checkpoint} cannot be resumed here: bf16-true and other precisions keep weights of different types: "
            "set trainer.precision to that of its run"
        )
    saved_groups = content["optimizer_states"][0]["param_groups"]
    own_groups = task.configure_optimizers()["optimizer"].param_groups
    _check_optimizer(checkpoint, saved.get("optimizer"), own.get("optimizer"), saved_groups, own_groups)
    return step


def _is_architecture(saved: Mapping[str, object], config: BertConfig) -> bool:
    """Return whether a checkpoint has this architecture. Earlier versions saved fewer fields, which had defaults."""
    try:
        return BertConfig.from_dict(saved) == config
    except ValueError:
        # It names a custom part that is not registered, because this training does not use it.
        return False


def _check_modules(checkpoint: Path, content: Mapping[str, Any], task: Task) -> None:
    """Check that a checkpoint holds what parts of the step method add to the model.

    Raises:
        InputError: it lacks such a module, or has one that this training does not add.
    """
    saved = {name.partition(".")[0] for name in content["state_dict"]}
    own = {name for part in task.step_parts for name in part.modules}
    known = own | {name.partition(".")[0] for name in task.state_dict()}
    for names, difference in ((own - saved, "lacks the"), (saved - known, "has")):
        if names:
            name = ", ".join(sorted(names)).replace("_", " ")
            raise InputError(
                f"{checkpoint} cannot be resumed here: it {difference} {name}, so adversarial differs: start from "
                "its weights with model.pretrained"
            )


def _check_tuning(checkpoint: Path, saved: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Check that a checkpoint was tuned as this training tunes, on top of the same base.

    Raises:
        InputError: the tuning or the base differs.
    """
    old, new = ({"name": "full", **(entry.get("tuning") or {})} for entry in (saved, own))
    if old != new:
        keys = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
        differing = ", ".join(f"tuning.{key} is {old.get(key)} there and {new.get(key)} here" for key in keys)
        raise InputError(f"{checkpoint} cannot be resumed here: its tuning differs ({differing})")
    bases = [entry.get("base") or {} for entry in (saved, own)]
    for key in ("digest", "names"):
        if bases[0].get(key) != bases[1].get(key):
            raise InputError(
                f"{checkpoint} cannot be resumed here: it holds what was trained on top of "
                f"{bases[0].get('name', 'random weights')}, and this training starts from "
                f"{bases[1].get('name', 'random weights')}"
            )


def _check_head(checkpoint: Path, content: Mapping[str, Any], task: Task) -> None:
    """Check that a checkpoint's head is that of this training, and was built with the same options.

    Args:
        checkpoint: the checkpoint, for the message.
        content: what it holds.
        task: the task of this training.

    Raises:
        InputError: the head or an option differs. The message names the key.
    """
    options = task_spec(task.name).head_options
    tensors = {name.removeprefix("model.") for name in content["state_dict"]}
    heads = (content[ENTRY]["task_settings"], task.checkpoint_entry()["task_settings"])
    saved, own = (
        {"": settings.get("head", {"name": LINEAR}), **{f".{name}": value for name, value in options(names).items()}}
        for settings, names in zip(heads, (tensors, task.model.state_dict()), strict=True)
    )
    for key, value in own.items():
        if saved[key] != value:
            raise InputError(
                f"{checkpoint} cannot be resumed here: its head differs (model.head{key} is "
                f"{json.dumps(saved[key])} there and {json.dumps(value)} here)"
            )


def _check_optimizer(
    checkpoint: Path,
    saved_name: object,
    own_name: object,
    saved: Sequence[Mapping[str, Any]],
    own: Sequence[Mapping[str, Any]],
) -> None:
    """Check that a checkpoint's optimiser and its parameter groups are those of this training.

    Loading a checkpoint restores its groups too. Other rates would be ignored silently, and other groups would
    assign moments to the wrong parameters.

    Raises:
        InputError: the optimisers differ.
    """
    message = f"{checkpoint} cannot be resumed here: its optimiser"
    if saved_name is not None and own_name is not None and saved_name != own_name:
        raise InputError(f"{message} differs: {saved_name}, not {own_name}")
    if any((key in saved[0]) != (key in own[0]) for key in _TELLING_KEYS):
        raise InputError(f"{message} differs")
    if [len(group["params"]) for group in saved] != [len(group["params"]) for group in own]:
        raise InputError(f"{message} has other groups of parameters (by parameter_groups, freeze or weight decay)")
    for old, new in zip(saved, own, strict=True):
        for key in new:
            if key in old and key not in _STATE_KEYS and old[key] != new[key]:
                raise InputError(f"{message} has another {key}: {old[key]}, not {new[key]}")


def _warn_of_other_samples(checkpoint: Path, experiment: Experiment) -> None:
    """Warn if `data.batch_size` or `data.stages` differ from those of the run that wrote the checkpoint."""
    run = RunDirectory(checkpoint.parent.parent)
    if not run.exists:
        return
    old: dict[str, object] = {}
    with suppress(InputError):
        old = run.read_config().get("data", {})
    new = experiment.to_dict()["data"]
    for key in _POSITION_KEYS:
        if key in old and key in new and old[key] != new[key]:
            log.warning(
                "%s: its run had data.%s %s, and this one has %s. The step is kept, so training continues at another "
                "position in the data: some samples are repeated or skipped",
                checkpoint,
                key,
                old[key],
                new[key],
            )
