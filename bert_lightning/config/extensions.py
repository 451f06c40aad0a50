"""Extensions: classes of the user's that a configuration names by `class_path` and `init_args` instead of `name`.

Importing a module runs its code. So a configuration alone cannot import one: the user allows it on the command line.
"""

import dataclasses
import importlib
import os
import sys
from collections.abc import Sequence

from bert_lightning.config.nested import at, copied, section_at, split
from bert_lightning.config.settings import Tables
from bert_lightning.errors import InputError

# Attributes that an extension must have; see OptimizerSettings, Schedule and Masking.
_REQUIRED = {
    "optimizer": ("learning_rate", "weight_decay", "matrices_apart", "build"),
    "schedule": ("factor", "check"),
    "step_method": ("build",),
    "adversarial": ("wrap",),
    "data.masking": ("rate", "mask_share", "random_share", "random_tokens", "select"),
}


def with_extensions(
    values: dict[str, object], tables: Tables, allowed: Sequence[str]
) -> tuple[dict[str, object], Tables]:
    """Write each `class_path` as the `name` of an entry, and add that entry to its table.

    Args:
        values: nested keys of an experiment.
        tables: dotted path of a choice -> name -> dataclass.
        allowed: modules that may be imported; a package allows all of its modules.

    Raises:
        InputError: a module is not allowed, and so not imported, or the class cannot be used there.
    """
    tables = dict(tables)
    for path, class_path in extensions_in(values, tables).items():
        for key in section_at(values, path):
            if key not in ("class_path", "init_args"):
                raise InputError(f"{path}.{key} stands beside class_path; keys of the class belong under init_args")
        arguments = at(values, f"{path}.init_args") or {}
        if not isinstance(arguments, dict):
            raise InputError(f"{path}.init_args: keys and values are expected, got {arguments!r}")
        tables[path] = {**tables[path], class_path: _load_settings_class(class_path, path, allowed)}
        section_path, key = split(path)
        values, section = copied(values, section_path)
        section[key] = {**arguments, "name": class_path}
    return values, tables


def extensions_in(values: dict[str, object], tables: Tables) -> dict[str, str]:
    """Return the extensions that nested keys name: dotted path of the choice -> class path."""
    return {
        path: str(at(values, f"{path}.class_path")) for path in tables if "class_path" in section_at(values, path)
    }


def without_extensions(values: dict[str, object], tables: Tables) -> dict[str, object]:
    """Return nested keys without the choices that name a class."""
    for path in extensions_in(values, tables):
        section_path, key = split(path)
        values, section = copied(values, section_path)
        del section[key]
    return values


def import_class(class_path: str, path: str, allowed: Sequence[str]) -> type:
    """Import a class that a configuration names, if the user has allowed its module.

    Args:
        class_path: module and name, such as `my_package.models.Head`.
        path: the dotted key that names it, for messages.
        allowed: modules that may be imported; a package allows all of its modules.

    Raises:
        InputError: the module is not allowed, and so not imported, or has no such class.
    """
    module, _, name = class_path.rpartition(".")
    _require_allowed(module, class_path, path, allowed)
    # The user's modules lie in the current folder. It comes last, so that they replace no other module.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        cls = getattr(importlib.import_module(module), name, None)
    except ImportError as error:
        raise InputError(f"{path}.class_path {class_path} cannot be imported: {error}") from None
    if not isinstance(cls, type):
        raise InputError(f"{path}.class_path: {module} has no class {name}")
    _require_allowed(cls.__module__, class_path, path, allowed)
    return cls


def _load_settings_class(class_path: str, path: str, allowed: Sequence[str]) -> type:
    cls = import_class(class_path, path, allowed)
    if cls.__qualname__ != cls.__name__ or not dataclasses.is_dataclass(cls):
        raise InputError(f"{path}.class_path {class_path} is no dataclass of its module: its fields are the keys")
    fields = {field.name for field in dataclasses.fields(cls)}
    missing = [each for each in _REQUIRED[path] if each not in fields and not hasattr(cls, each)]
    if missing:
        raise InputError(f"{path}.class_path {class_path} lacks {', '.join(missing)}")
    return cls


def _require_allowed(module: str, class_path: str, path: str, allowed: Sequence[str]) -> None:
    if not any(module == each or module.startswith(f"{each}.") for each in ("bert_lightning", *allowed)):
        raise InputError(
            f"{path}.class_path {class_path} is of the module {module or class_path!r}, which is not imported unless "
            f"you say so: --allow-module {module or 'NAME'}"
        )
