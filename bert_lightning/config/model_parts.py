"""Parts of the model that a configuration or a checkpoint takes from the user's modules.

A part is named by its registered name, or by `class_path` (a class or function) and `init_args`. A class path needs
`--allow-module`. The part is then registered under its class path, which checkpoints hold.
"""

from collections.abc import Sequence
from typing import Any, get_args

from bert_lightning.checkpoints.checkpoint import Checkpoint
from bert_lightning.config.extensions import import_class, import_module, import_object, is_allowed
from bert_lightning.config.nested import at, copied, section_at, split
from bert_lightning.config.settings import Fault, unknown_key
from bert_lightning.errors import InputError
from bert_lightning.model.config import PARTS
from bert_lightning.model.heads import HEADS, LINEAR
from bert_lightning.model.layers.attention import PUBLISHED_ATTENTION, AttentionName
from bert_lightning.model.parts import PartTable
from bert_lightning.model.tuning import register_tuning

HEAD, _ATTENTION = "model.head", "model.attention"
PART_PATHS: dict[str, PartTable[Any]] = {
    HEAD: HEADS,
    _ATTENTION: PARTS["attention"],
    **{f"model.config.{name}": table for name, table in PARTS.items() if name != "attention"},
}
"""Dotted keys that name a part -> its table."""
_ARGUMENTS = "model.config.init_args"


def part_at(values: object, path: str) -> str | None:
    """Return the name or class path of the part at a dotted key; None if there is none."""
    part = at(values, path)
    if isinstance(part, dict):
        part = part.get("class_path", part.get("name"))
    return part if isinstance(part, str) else None


def class_paths_in(values: object) -> dict[str, str]:
    """Return the parts that nested keys name by class: dotted key -> class path.

    >>> class_paths_in({"model": {"attention": "sdpa", "head": {"class_path": "my_heads.Attentive"}}})
    {'model.head': 'my_heads.Attentive'}
    """
    return {path: part for path in PART_PATHS if (part := part_at(values, path)) is not None and "." in part}


def without_stale_arguments(below: dict[str, object], above: dict[str, object]) -> dict[str, object]:
    """Return the values below without the `init_args` of parts that the values above replace by others."""
    for path in PART_PATHS:
        part = part_at(above, path)
        if part is None or part == part_at(below, path):
            continue
        section, name = (path, "init_args") if isinstance(at(below, path), dict) else (_ARGUMENTS, split(path)[1])
        if name in section_at(below, section):
            below, content = copied(below, section)
            del content[name]
        # A class path and a name of two layers would stand side by side.
        for other in ("class_path", "name"):
            if other in section_at(below, path):
                below, content = copied(below, path)
                del content[other]
    return below


def with_own_parts(
    values: dict[str, object], head_keys: Sequence[str], allowed: Sequence[str], faults: list[Fault]
) -> dict[str, object]:
    """Import the parts that nested keys name by class, and write every part as its name and arguments.

    Args:
        values: nested keys of an experiment.
        head_keys: the keys that `model.head` has in the experiment's task.
        allowed: modules that may be imported; a package allows all of its modules.
        faults: receives an entry for each part that cannot be used.
    """
    for path in PART_PATHS:
        part = part_at(values, path)
        try:
            if path == HEAD and part is not None and "name" not in head_keys:
                raise InputError("model.head: this task has no head that another one could replace")
            if part is not None and "." in part:
                register_part(path, part, allowed)
            values = _as_name(values, path)
        except InputError as error:
            faults.append((path, str(error)))
            section, key = split(path)
            values, content = copied(values, section)
            del content[key]
    return values


def _as_name(values: dict[str, object], path: str) -> dict[str, object]:
    """Write a part that is given as a mapping by its name; its arguments go where the settings hold them.

    Raises:
        InputError: the mapping has other keys than a name or class path and `init_args`.
    """
    part = at(values, path)
    section, key = split(path)
    if key in section_at(values, section) and not isinstance(part, str | dict) and path != HEAD:
        shown = "null" if part is None else repr(part)
        raise InputError(f"{path}: expected one of {', '.join(_known(path))}, got {shown}")
    if path == _ATTENTION and isinstance(part, str) and part not in _known(path):
        raise InputError(f"{path}: expected one of {', '.join(_known(path))}, got {part!r}")
    if not isinstance(part, dict) or (path == HEAD and "class_path" not in part):
        return values
    if "class_path" in part and "name" in part:
        raise InputError(f"{path} has both name and class_path; only one of them may name the part")
    name, arguments = part_at(values, path), part.get("init_args") or {}
    if not isinstance(name, str):
        raise InputError(f"{path}: a name or class_path is expected, got {part!r}")
    if not isinstance(arguments, dict):
        raise InputError(f"{path}.init_args: keys and values are expected, got {arguments!r}")
    values, content = copied(values, section)
    if path == HEAD:
        rest = {other: value for other, value in part.items() if other not in ("class_path", "name")}
        content[key] = {**rest, "name": name, "init_args": arguments}
        return values
    for other in part:
        if other not in ("class_path", "name", "init_args"):
            raise InputError(f"{unknown_key(other, ('class_path', 'name', 'init_args'), path)}")
    content[key] = name
    if arguments:
        values, content = copied(values, _ARGUMENTS)
        content[key] = arguments
    return values


def _known(path: str) -> list[str]:
    return [*(get_args(AttentionName) if path == _ATTENTION else ()), *PART_PATHS[path]]


def with_class_paths(values: dict[str, object]) -> dict[str, Any]:
    """Write each part that is named by its class path as `class_path` and `init_args`, as in a configuration file."""
    for path, class_path in class_paths_in(values).items():
        section_path, key = split(path)
        if path == HEAD:
            values, head = copied(values, path)
            head["class_path"] = head.pop("name")
            continue
        arguments = at(values, f"{_ARGUMENTS}.{key}") or {}
        if arguments:
            values, others = copied(values, _ARGUMENTS)
            del others[key]
        values, section = copied(values, section_path)
        section[key] = {"class_path": class_path, "init_args": arguments}
    return values


def register_part(path: str, class_path: str, allowed: Sequence[str]) -> None:
    """Import a part and register it under its class path, unless it is registered already.

    Args:
        path: the dotted key that names it.
        class_path: its module and name.
        allowed: modules that may be imported.

    Raises:
        InputError: the module is not allowed, and so not imported, or holds no such part.
    """
    table = PART_PATHS[path]
    if class_path in table:
        return
    part = import_object(class_path, path, allowed)
    try:
        table.register(class_path, part)
    except ValueError as error:
        raise InputError(f"{path}.class_path: {error}") from None


def register_parts_of(checkpoint: Checkpoint, allowed: Sequence[str]) -> None:
    """Register the parts and the tuning that a checkpoint names by class, as far as their modules are allowed.

    A part with a class path is imported from there. For one with a registered name, all allowed modules are imported,
    because the name does not say which of them registers it. If a part is missing, the model cannot be built, and the
    error names the part.
    """
    names = {f"model.config.{name}": checkpoint.config.get(name) for name in PARTS}
    names[_ATTENTION] = names.pop("model.config.attention")
    names[HEAD] = part_at(checkpoint.task_settings, "head")
    for path, name in names.items():
        if not isinstance(name, str) or name in {*PART_PATHS[path], LINEAR, PUBLISHED_ATTENTION}:
            continue
        module = name.rpartition(".")[0]
        if not module:
            for each in allowed:
                import_module(each, path, allowed, name)
        elif is_allowed(module, allowed):
            register_part(path, name, allowed)
    tuning = str((checkpoint.tuning or {}).get("name"))
    if is_allowed(tuning.rpartition(".")[0], allowed):
        register_tuning(import_class(tuning, "tuning", allowed))
