"""Rebuilding a task from nothing but the checkpoint of a run."""

import inspect
from collections.abc import Mapping
from typing import Any

from bert_lightning.checkpoints.checkpoint import Checkpoint
from bert_lightning.errors import InputError
from bert_lightning.model.pretrained import config_of, fill
from bert_lightning.model.tuning import tune_as
from bert_lightning.tasks.catalogue import OWNERS, task_spec
from bert_lightning.tasks.task import Task
from bert_lightning.text.wordpiece import WordPieceTokenizer


def checkpoint_tokenizer(checkpoint: Checkpoint) -> WordPieceTokenizer | None:
    """Return the tokenizer that a checkpoint carries, if any.

    Raises:
        InputError: the checkpoint's vocabulary is not usable.
    """
    if checkpoint.vocabulary is None:
        return None
    try:
        return WordPieceTokenizer(checkpoint.vocabulary)
    except InputError as error:
        raise InputError(f"{checkpoint.path}: {error}") from None


def task_of(
    checkpoint: Checkpoint, task_class: type[Task] = Task, arguments: Mapping[str, object] | None = None
) -> Task:
    """Rebuild a task, ready to predict.

    Args:
        checkpoint: the checkpoint of a run, or one that a plain Lightning Trainer wrote.
        task_class: the class of the task; a base class stands for the checkpoint's own.
        arguments: further arguments of the constructor, such as those of a subclass.

    Raises:
        InputError: the checkpoint was not written by a run, or it is of another task.
    """
    tokenizer = checkpoint_tokenizer(checkpoint)
    if checkpoint.task is None or tokenizer is None:
        raise InputError(f"{checkpoint.path} was not written by a run: predicting needs its labels and vocabulary")
    spec, config = task_spec(checkpoint.task), config_of(checkpoint)
    own = spec.task
    if isinstance(own, type) and not issubclass(own, task_class):
        if not issubclass(task_class, own):
            raise InputError(f"{checkpoint.path} is a checkpoint of {own.__name__}, not of {task_class.__name__}")
        own = task_class
    try:
        model = spec.model(config, **spec.arguments_of_saved_head(checkpoint))
    except ValueError as error:
        raise InputError(f"{checkpoint.path}: {error}") from None
    tune_as(model, checkpoint)
    fill(model, checkpoint)
    saved = spec.arguments_of_saved_task(checkpoint.task_settings)
    task = own(model, config, tokenizer, **{**saved, **(arguments or {})})
    task.module = OWNERS.get(spec.name)
    return task


def arguments_among(values: Mapping[str, object], task_class: type[Task]) -> dict[str, object]:
    """Return the values that a subclass takes in addition to the arguments of its task, such as hyper-parameters."""
    bases: list[Any] = list(task_class.__mro__)
    own, *inherited = (inspect.signature(each.__init__).parameters.keys() for each in bases)
    names = own - {name for each in inherited for name in each}
    return {name: value for name, value in values.items() if name in names}
