"""Layers of a configuration: command-line overrides as nested keys, and merging a layer over another."""

import dataclasses
from collections.abc import Sequence

from bert_lightning.config.nested import at, copied, split
from bert_lightning.config.settings import Tables
from bert_lightning.errors import InputError


def parse_overrides(arguments: Sequence[str]) -> dict[str, object]:
    """Turn `--key.sub value` and `--key.sub=value` into nested keys; values stay text.

    Raises:
        InputError: an argument has another form, or a key has no value.

    >>> parse_overrides(["--optimizer.learning_rate", "1e-4", "--data.batch_size=16"])
    {'optimizer': {'learning_rate': '1e-4'}, 'data': {'batch_size': '16'}}
    """
    result: dict[str, object] = {}
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        key, equals, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or not key:
            raise InputError(f"unexpected argument {argument!r}; overrides are written --key.sub value")
        if not equals:
            if not rest or (rest[0].startswith("--") and rest[0][2:3].isalpha()):
                raise InputError(f"--{key} has no value")
            value = rest.pop(0)
        *parents, name = key.split(".")
        section = result
        for parent in parents:
            inner = section.setdefault(parent, {})
            if not isinstance(inner, dict):
                raise InputError(f"--{key}: an override before it gave {parent} itself a value")
            section = inner
        section[name] = value
    return result


def merge(
    below: dict[str, object], above: dict[str, object], tables: Tables | None = None, path: str = ""
) -> dict[str, object]:
    """Merge nested keys. Where both layers have a value, the one above wins; a list wins as a whole.

    If the layer above changes the name of a choice, keys that the new choice does not know are dropped.

    >>> merge({"data": {"batch_size": 8, "train": "a"}}, {"data": {"train": "b"}})
    {'data': {'batch_size': 8, 'train': 'b'}}
    """
    tables = tables or {}
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        full = f"{path}.{key}" if path else str(key)
        if isinstance(old, dict) and isinstance(value, dict):
            name = value.get("name")
            if full in tables and _is_of_another_kind(old, value):
                merged[key] = value
                continue
            if full in tables and isinstance(name, str) and name in tables[full] and name != old.get("name"):
                fields = {field.name for field in dataclasses.fields(tables[full][name])}
                old = {each: kept for each, kept in old.items() if each in fields}
            merged[key] = merge(old, value, tables, full)
        else:
            merged[key] = value
    return merged


def _is_of_another_kind(old: dict[str, object], value: dict[str, object]) -> bool:
    """Return whether a choice by class meets one by name, or by another class. Those share no keys."""
    class_path = value.get("class_path")
    return class_path != old.get("class_path") and (class_path is not None or "name" in value)


def with_names(values: dict[str, object], tables: Tables) -> dict[str, object]:
    """Write a choice given as its name alone, `schedule: constant`, as `schedule: {name: constant}`."""
    for path in tables:
        section_path, key = split(path)
        name = at(values, path)
        if isinstance(name, str):
            values, section = copied(values, section_path)
            section[key] = {"name": name}
    return values
