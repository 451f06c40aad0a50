"""Checks that the parts of one run fit each other: head and checkpoint, lengths, processes, weights of losses."""

import json

from torch import nn

from bert_lightning.checkpoints.checkpoint import Checkpoint
from bert_lightning.checks import nearest
from bert_lightning.config.experiment import Experiment
from bert_lightning.errors import InputError
from bert_lightning.model import BertConfig
from bert_lightning.model.heads import LINEAR
from bert_lightning.model.pretrained import PretrainedModel
from bert_lightning.model.tuning import TUNINGS, Tuning
from bert_lightning.tasks.fine_tuning.settings import HeadSettings
from bert_lightning.tasks.spec import TaskSpec
from bert_lightning.tasks.task import Task


def check_head(spec: TaskSpec, experiment: Experiment, checkpoint: Checkpoint) -> None:
    """Check that a checkpoint is scored with the head that it was trained with.

    Raises:
        InputError: an option of the head differs. The message names the key and the checkpoint's value.
    """
    if checkpoint.task != spec.name:
        return
    saved, settings = checkpoint.task_settings.get("head") or {}, experiment.model.head
    options = spec.head_options(checkpoint.tensors)
    if isinstance(settings, HeadSettings):
        options |= {"name": saved.get("name", LINEAR), "init_args": saved.get("init_args", {})}
    for name, value in options.items():
        chosen = getattr(experiment.model.head, name)
        if chosen != value:
            raise InputError(
                f"model.head.{name} is {json.dumps(chosen)}, but {checkpoint.path} was trained with "
                f"{json.dumps(value)}: a checkpoint can be scored only with its own head"
            )


def check_sizes(experiment: Experiment, config: BertConfig) -> None:
    """Check that sequences fit the model, and the model the processes that share it.

    Raises:
        InputError: they do not.
    """
    length, num_positions = experiment.data.longest, config.max_position_embeddings
    if length > num_positions:
        raise InputError(
            f"data.max_seq_length {length} is more than the model's positions ({num_positions}): lower it"
        )
    size = experiment.trainer.tensor_parallel_size
    for name in ("num_attention_heads", "intermediate_size"):
        if getattr(config, name) % size:
            raise InputError(
                f"trainer.tensor_parallel_size is {size}, which does not divide the model's {name} "
                f"({getattr(config, name)})"
            )


def check_slices(experiment: Experiment, tuning: Tuning, model: PretrainedModel) -> None:
    """Check that FSDP and tensor parallelism can slice the parameters that a tuning and custom parts add.

    Raises:
        InputError: the tuning is a custom class, a custom attention or activation has parameters, or
            a parameter is a scalar.
    """
    for name, parameter in model.named_parameters() if experiment.trainer.strategy == "fsdp" else ():
        if parameter.ndim == 0:
            raise InputError(
                f"trainer.strategy fsdp cannot slice the scalar parameter {name}: give it the shape (1,)"
            )
    if experiment.trainer.tensor_parallel_size == 1:
        return
    for name, key in (("attention", "model.attention"), ("activation", "model.config.hidden_act")):
        for block in model.backbone.layers:
            part = getattr(block, name)
            if isinstance(part, nn.Module) and any(True for _ in part.parameters()):
                raise InputError(
                    f"trainer.tensor_parallel_size cannot be combined with {key} {type(part).__name__}, which has "
                    "parameters: each process has only some of the heads and widths"
                )
    if type(tuning) not in TUNINGS.values():
        raise InputError(
            "trainer.tensor_parallel_size cannot be combined with tuning.class_path: it cuts only layers it knows"
        )


def check_loss_weights(experiment: Experiment, task: Task) -> None:
    """Check that the task has every loss that `loss_weights` names.

    Raises:
        InputError: it does not. The message names the nearest one.
    """
    losses = task.step_method.loss_names[: task.step_method.num_losses]
    for name in experiment.loss_weights:
        if name not in losses:
            raise InputError(f"unknown key 'loss_weights.{name}'{nearest(name, losses, 'loss_weights')}")
