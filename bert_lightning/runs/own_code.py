"""The user's modules that a checkpoint needs, imported with consent before anything is built from it."""

from collections.abc import Sequence

from bert_lightning.checkpoints.checkpoint import Checkpoint
from bert_lightning.config.extensions import import_module, is_allowed
from bert_lightning.config.model_parts import register_parts_of
from bert_lightning.data.datasets.registration import PROGRAM
from bert_lightning.errors import InputError
from bert_lightning.model.architectures import MODELS, OWN_MODELS
from bert_lightning.tasks.catalogue import TASKS


def import_code_of(checkpoint: Checkpoint, allowed: Sequence[str], *, needs_task: bool = True) -> None:
    """Import the module that registers the task of a checkpoint, and those of its model's own parts.

    Args:
        checkpoint: the checkpoint of a run.
        allowed: modules that may be imported; a package allows all of its modules.
        needs_task: whether the task itself is needed, or only its model.

    Raises:
        InputError: the task's module is needed and not allowed, or it raises. Without an own part of the model, the
            error of building the model names the module.
    """
    module, known_models = checkpoint.module, {**MODELS, **OWN_MODELS}
    is_known = checkpoint.task in TASKS
    is_needed = needs_task or (checkpoint.architecture or "") not in {*known_models, ""}
    if module is not None and not is_known and (is_needed or is_allowed(module, allowed)):
        if module == PROGRAM:
            raise InputError(
                f"{checkpoint.path}: its task {checkpoint.task} was registered by a program: put register_task into "
                "a module, or call it before"
            )
        import_module(module, f"{checkpoint.path}: its task", allowed, checkpoint.task)
    register_parts_of(checkpoint, allowed)
