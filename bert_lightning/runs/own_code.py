"""The user's modules: importing those that a checkpoint needs, and the record of those that a run takes."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from bert_lightning.checkpoints.checkpoint import Checkpoint
from bert_lightning.checkpoints.files import sha256
from bert_lightning.config.experiment import Experiment
from bert_lightning.config.extensions import import_module, is_allowed, is_own, own_classes
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
        InputError: the task's module is needed and not allowed, or it raises. A custom part of the model whose module
            is not allowed raises nothing here: the error comes when the model is built, and names the part.
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


def recorded_modules(experiment: Experiment, given: Sequence[object] = ()) -> dict[str, dict[str, object]]:
    """Identify the user's code that a run uses, for the manifest.

    Args:
        experiment: names classes and modules.
        given: objects that a Python program gave.

    Returns:
        Module -> the classes that the configuration names in it, and the SHA-256 of its file. A package is recorded
        with all of its modules that are loaded.
    """
    classes: dict[str, list[str]] = {}
    objects = [(type(each).__module__, type(each).__qualname__) for each in given]
    for module, name in (*own_classes(experiment.to_dict()), *objects):
        if not is_own(module):
            continue
        classes.setdefault(module, [])
        if name is not None and name not in classes[module]:
            classes[module].append(name)
    loaded = sorted(
        name for name in sys.modules if name in classes or any(name.startswith(f"{each}.") for each in classes)
    )
    return {name: {"classes": classes.get(name, []), "sha256": _sha256_of(name)} for name in loaded}


def changed_modules(
    before: Mapping[str, Mapping[str, object]], now: Mapping[str, Mapping[str, object]]
) -> Iterator[str]:
    """Yield the modules whose file differs between two records."""
    for name in sorted({*before} & {*now}):
        if before[name].get("sha256") != now[name].get("sha256"):
            yield name


def _sha256_of(module: str) -> str | None:
    file = getattr(sys.modules[module], "__file__", None)
    return sha256(Path(file)) if file is not None and Path(file).is_file() else None
