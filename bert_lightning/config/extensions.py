"""Parts of the user's own in a configuration: `class_path` and `init_args` in place of `name` and a part's keys.

Importing a module runs it, so a configuration alone can never name one: the user allows it on the command line.
"""

import dataclasses
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

from bert_lightning.config.settings import Tables
from bert_lightning.errors import InputError

# What the package asks of a part; see OptimizerSettings, Schedule and Masking.
_REQUIRED = {
    "optimizer": ("learning_rate", "weight_decay", "matrices_apart", "build"),
    "schedule": ("factor", "check"),
    "data.masking": ("rate", "mask_share", "random_share", "random_tokens", "select"),
}


def with_own_parts(values: dict[str, Any], tables: Tables, allowed: Sequence[str]) -> tuple[dict[str, Any], Tables]:
    """Write each `class_path` as the `name` of a row, and add that row to its table.

    Args:
        values: nested keys of an experiment.
        tables: dotted path of a choice -> name -> dataclass.
        allowed: modules, and packages with all of theirs, that may be imported.

    Raises:
        InputError: a module that is not allowed, which is not imported then, or no class that serves.
    """
    values, tables = dict(values), dict(tables)
    for path in tables:
        *parents, last = path.split(".")
        place = values
        for parent in parents:
            inner = place.get(parent)
            copy = dict(inner) if isinstance(inner, dict) else {}
            if copy:
                place[parent] = copy
            place = copy
        choice = place.get(last)
        if not isinstance(choice, dict) or "class_path" not in choice:
            continue
        given = str(choice["class_path"])
        for key in choice:
            if key not in ("class_path", "init_args"):
                raise InputError(f"{path}.{key} stands beside class_path; keys of the class belong under init_args")
        arguments = choice.get("init_args") or {}
        if not isinstance(arguments, dict):
            raise InputError(f"{path}.init_args: keys and values are expected, got {arguments!r}")
        tables[path] = {**tables[path], given: _class_at(given, path, allowed)}
        place[last] = {**arguments, "name": given}
    return values, tables


def _class_at(given: str, path: str, allowed: Sequence[str]) -> type:
    module, _, name = given.rpartition(".")
    _require_allowed(module, given, path, allowed)
    # Where the user's own modules lie; behind all else, so that none takes another one's place.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ImportError as error:
        raise InputError(f"{path}.class_path {given} cannot be imported: {error}") from None
    if not isinstance(found, type):
        raise InputError(f"{path}.class_path: {module} has no class {name}")
    _require_allowed(found.__module__, given, path, allowed)
    if found.__qualname__ != found.__name__ or not dataclasses.is_dataclass(found):
        raise InputError(f"{path}.class_path {given} is no dataclass of its module: its fields are the keys")
    known = {field.name for field in dataclasses.fields(found)}
    missing = [each for each in _REQUIRED[path] if each not in known and not hasattr(found, each)]
    if missing:
        raise InputError(f"{path}.class_path {given} lacks {', '.join(missing)}")
    return found


def _require_allowed(module: str, given: str, path: str, allowed: Sequence[str]) -> None:
    if not any(module == each or module.startswith(f"{each}.") for each in ("bert_lightning", *allowed)):
        raise InputError(
            f"{path}.class_path {given} is of the module {module or given!r}, which is not imported unless you say "
            f"so: --allow-module {module or 'NAME'}"
        )
