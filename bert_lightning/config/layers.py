"""Layers of a configuration: files, nested values and overrides as nested keys, and merging a layer over another."""

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from bert_lightning.config.nested import at, copied, split
from bert_lightning.config.settings import Tables
from bert_lightning.config.yaml_files import mapping_of_text, read_yaml
from bert_lightning.errors import InputError

Source = str | Path | Mapping[str, object]
"""A file of nested keys, or the nested keys themselves."""
Overrides = Mapping[str, object] | Sequence[str]
"""Dotted keys and their values, or arguments of the command line."""
Layer = tuple[str, dict[str, object]]
"""The name of a source, as messages have it, and its nested keys."""
OVERRIDE_LAYERS = ("overrides", "command line")
"""Names of the layer of overrides: a mapping, and arguments of the command line."""


def read_layers(sources: Source | Sequence[Source]) -> tuple[list[Layer], list[str]]:
    """Read the sources of an experiment in order; return their layers, and a message for each unreadable source.

    Raises:
        InputError: a source is neither a file nor nested keys.
    """
    layers: list[Layer] = []
    unread: list[str] = []
    if isinstance(sources, str | Path | Mapping):
        sources = [sources]
    if not isinstance(sources, Sequence):
        raise InputError(f"an experiment is a file, nested keys, or a list of these, not {sources!r}")
    for source in sources:
        if isinstance(source, Mapping):
            layers.append(("values", {key: plain_value(value) for key, value in source.items()}))
        elif isinstance(source, str | Path):
            try:
                layers.append((str(source), read_yaml(Path(source))))
            except InputError as error:
                unread.append(str(error))
        else:
            raise InputError(f"an experiment is a file, nested keys, or a list of these, not {source!r}")
    return layers, unread


def override_layer(overrides: Overrides, choices: Collection[str] = (), sections: Collection[str] = ()) -> Layer:
    """Return overrides as a layer.

    Args:
        overrides: dotted keys and their values, or arguments of the command line.
        choices: dotted paths of the choices, which may be given as their name alone.
        sections: dotted paths of nested keys, which may be given as the text of a YAML mapping; so may a choice.

    Raises:
        InputError: an argument has another form, a key has no value, or two keys contradict each other.

    >>> override_layer({"data.batch_size": 16})
    ('overrides', {'data': {'batch_size': 16}})
    >>> override_layer(["--tuning", "lora", "--tuning.rank", "4"], choices=["tuning"])
    ('command line', {'tuning': {'name': 'lora', 'rank': '4'}})
    >>> override_layer(["--loss_weights", "{nsp_loss: 0.5}"], sections=["loss_weights"])
    ('command line', {'loss_weights': {'nsp_loss': 0.5}})
    """
    if isinstance(overrides, Mapping):
        for key in overrides:
            if not isinstance(key, str):
                raise InputError(f"overrides: a key is text such as 'trainer.max_steps', not {key!r}")
        pairs = [(key, plain_value(value)) for key, value in overrides.items()]
        return OVERRIDE_LAYERS[0], _nested(pairs, choices, sections)
    if isinstance(overrides, str) or not isinstance(overrides, Sequence):
        raise InputError(f"overrides are keys and values, {{'trainer.max_steps': 100}}, not {overrides!r}")
    return OVERRIDE_LAYERS[1], parse_overrides(overrides, choices, sections)


def plain_value(value: object) -> object:
    """Return a value of Python as YAML would give it: paths as text, tuples as lists, numbers of numpy as numbers.

    >>> plain_value({"train": Path("a.tsv"), "stages": ({"batch_size": np.int64(8)},)})
    {'train': 'a.tsv', 'stages': [{'batch_size': 8}]}
    """
    if isinstance(value, Mapping):
        return {key: plain_value(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain_value(inner) for inner in value]
    if isinstance(value, Path):
        return str(value)
    return value.item() if isinstance(value, np.generic) else value


def parse_overrides(
    arguments: Sequence[str], choices: Collection[str] = (), sections: Collection[str] = ()
) -> dict[str, object]:
    """Turn `--key.sub value` and `--key.sub=value` into nested keys; values stay text, except those of sections.

    Raises:
        InputError: an argument has another form, or a key has no value.

    >>> parse_overrides(["--optimizer.learning_rate", "1e-4", "--data.batch_size=16"])
    {'optimizer': {'learning_rate': '1e-4'}, 'data': {'batch_size': '16'}}
    """
    return _nested(_pairs(list(arguments)), choices, sections)


def _pairs(rest: list[str]) -> Iterable[tuple[str, object]]:
    """Yield the key and the value of each argument."""
    while rest:
        argument = rest.pop(0)
        key, equals, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or not key:
            raise InputError(f"unexpected argument {argument!r}; overrides are written --key.sub value")
        if not equals:
            if not rest or (rest[0].startswith("--") and rest[0][2:3].isalpha()):
                raise InputError(f"--{key} has no value")
            value = rest.pop(0)
        yield f"--{key}", value


def _nested(
    pairs: Iterable[tuple[str, object]], choices: Collection[str], sections: Collection[str]
) -> dict[str, object]:
    """Return nested keys from dotted keys, with or without dashes before them, and their values."""
    result: dict[str, object] = {}
    for key, value in pairs:
        full = key.removeprefix("--")
        *parents, name = full.split(".")
        if full in choices or full in sections:
            value = mapping_of_text(value, full)
        if full in choices and isinstance(value, str):
            value = {"name": value}
        section = result
        for parent in parents:
            inner = section.setdefault(parent, {})
            if not isinstance(inner, dict):
                raise InputError(f"{key}: an override before it gave {parent} itself a value")
            section = inner
        before = section.get(name)
        section[name] = merge(before, value) if isinstance(before, dict) and isinstance(value, dict) else value
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
