"""Plain YAML values -> typed settings, strictly: every error names the key, the value and what is known."""

import dataclasses
import math
import os
import re
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from bert_lightning.checks import RefusedValue, nearest
from bert_lightning.errors import InputError

Tables = dict[str, dict[str, type]]
# The dotted key that a fault is about, and the message.
Fault = tuple[str, str]
# A second $ before it makes it plain text.
_VARIABLE = re.compile(r"(\$?)\$\{(\w+)\}")
_SECRET = re.compile(r"(KEYS?|TOKEN|SECRETS?|PASSWORD|PASSWD|CREDENTIALS?)(_|$)|(^|_)PAT$", re.IGNORECASE)


class _StrictLoader(yaml.SafeLoader):
    """Safe YAML in which a key given twice is an error, and `1e-4` a number, as YAML 1.2 has it."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        own = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        keys = [self.construct_object(key, deep=True) for key in own]
        # In Python 1 and true are the same key; in YAML they are two.
        typed = [(type(key), key) for key in keys]
        for number, key in enumerate(keys):
            if typed[number] in typed[:number]:
                mark = own[number].start_mark
                raise yaml.MarkedYAMLError(problem=f"the key {key!r} is given twice", problem_mark=mark)
        return super().construct_mapping(node, deep)


class _ExactDumper(yaml.SafeDumper):
    """YAML that `_StrictLoader` reads back to the same values."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # In single quotes YAML would read these line breaks as a space.
    style = '"' if any(char in text for char in "\x85\u2028\u2029") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_ExactDumper.add_representer(str, _represent_text)
# The dumper quotes a text that the loader would read as a number, such as the label 1e3.
for _class in (_StrictLoader, _ExactDumper):
    _class.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"),
        list("-+0123456789"),
    )


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file of nested keys.

    Raises:
        InputError: missing, not YAML (the message names the line), or no mapping.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    try:
        text = raw.decode("utf-8")
        value = yaml.load(text, Loader=_StrictLoader)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}: line {line}: byte {error.start} (0x{raw[error.start]:02x}) is not UTF-8") from None
    except yaml.MarkedYAMLError as error:
        place = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise InputError(f"{path}: {place}{error.problem}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise InputError(f"{path}: line {line}: YAML has no character {chr(error.character)!r}") from None
    except RecursionError:
        raise InputError(f"{path}: not readable as YAML: too many brackets inside each other") from None
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"{path}: not readable as YAML: {error}") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: keys and values are expected, such as `task: pretraining`")
    return value


def dump_yaml(values: dict[str, Any]) -> str:
    """Return nested keys as YAML that `read_yaml` reads back to the same values."""
    return yaml.dump(values, Dumper=_ExactDumper, sort_keys=False, allow_unicode=True)


def with_literal_variables(values: Any) -> Any:
    """Return resolved values in which `${NAME}` is escaped so that `build` reads it as text."""
    if isinstance(values, dict):
        return {with_literal_variables(key): with_literal_variables(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        # Variables are not replaced in the texts of a list.
        return [with_literal_variables(value) if isinstance(value, dict) else value for value in values]
    return _VARIABLE.sub(r"$\g<0>", values) if isinstance(values, str) else values


def parse_overrides(arguments: Sequence[str]) -> dict[str, Any]:
    """`--key.sub value` and `--key.sub=value` to nested keys; values stay text.

    Raises:
        InputError: something else stands among them.
    """
    result: dict[str, Any] = {}
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
        place = result
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise InputError(f"--{key}: {parent} was given a value of its own before")
        place[name] = value
    return result


def merge(
    below: dict[str, Any], above: dict[str, Any], tables: Tables | None = None, path: str = ""
) -> dict[str, Any]:
    """Nested keys of both; where both have a value, the one above wins, lists as a whole.

    Where a choice's name changes, keys that the new choice does not know go with the old one.
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
                known = {field.name for field in dataclasses.fields(tables[full][name])}
                old = {each: kept for each, kept in old.items() if each in known}
            merged[key] = merge(old, value, tables, full)
        else:
            merged[key] = value
    return merged


def _is_of_another_kind(old: dict[str, Any], value: dict[str, Any]) -> bool:
    """Whether a choice by class meets one by name, or by another class: they share no keys."""
    own = value.get("class_path")
    return own != old.get("class_path") and (own is not None or "name" in value)


def with_names(values: dict[str, Any], tables: Tables) -> dict[str, Any]:
    """Write a choice given as its name alone, `schedule: constant`, as `schedule: {name: constant}`."""
    for path in tables:
        *parents, last = path.split(".")
        place: Any = values
        for parent in parents:
            place = place.get(parent) if isinstance(place, dict) else None
        if isinstance(place, dict) and isinstance(place.get(last), str):
            place[last] = {"name": place[last]}
    return values


def build(cls: type, values: Any, path: str, tables: Tables, faults: list[Fault]) -> Any:
    """Fill the dataclass `cls` from plain values; on faults return None and add an entry to `faults` for each.

    A field whose dotted path is in `tables` is a choice: its key `name` picks a dataclass there, and the other keys
    fill it. Faults are collected so that users see all of them at once.
    """
    filled = fill(cls, values, path, tables, faults)
    if filled is None:
        return None
    refused: set[str] = set()
    while True:
        try:
            built = cls(**filled)
            return None if refused else built
        except ValueError as error:
            name = error.name if isinstance(error, RefusedValue) else None
            if refused and (name is None or name in refused):
                # The value that replaces a refused one may have caused it.
                return None
            own = str(error).split()[0].rstrip(":")
            faults.append((f"{path}.{own}", f"{path}.{error}") if path else (own, str(error)))
            if name is None or name not in filled:
                return None
            refused.add(name)
            # Continue with a value that is likely allowed, to find out which others are refused.
            default = cls.__dataclass_fields__[name].default  # type: ignore[attr-defined]
            filled[name] = 1 if default in (None, dataclasses.MISSING) else default


def fill(cls: type, values: Any, path: str, tables: Tables, faults: list[Fault]) -> dict[str, Any] | None:
    """Return typed values for the fields of `cls`, before `cls` itself checks them.

    If a key is unknown or missing, or a value has another type, return None and add an entry to `faults` for each.
    """
    if values is None:
        values = {}
    if not isinstance(values, dict):
        faults.append((path, f"{path}: keys and values are expected, got {values!r}"))
        return None
    assert dataclasses.is_dataclass(cls)
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    filled: dict[str, Any] = {}
    num_before = len(faults)
    for key, value in values.items():
        full = f"{path}.{key}" if path else str(key)
        if key not in fields:
            faults.append((full, unknown_key(key, fields, path)))
            continue
        try:
            filled[key] = _value(hints[key], value, full, tables, faults)
        except InputError as error:
            faults.append((full, str(error)))
    for name, field in fields.items():
        if name not in values and not _has_default(field):
            full = f"{path}.{name}" if path else name
            faults.append((full, f"the key {full} is missing"))
    return filled if len(faults) == num_before else None


def _has_default(field: dataclasses.Field[Any]) -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def _value(hint: Any, value: Any, path: str, tables: Tables, faults: list[Fault]) -> Any:
    if path in tables:
        return _build_choice(tables[path], value, path, tables, faults)
    if dataclasses.is_dataclass(hint):
        assert isinstance(hint, type)
        return build(hint, value, path, tables, faults)
    if (item := _item_class(hint)) is not None:
        parts = enumerate(_listed(value, path))
        return [build(item, part, f"{path}.{number}", tables, faults) for number, part in parts]
    return _typed(value, hint, path)


def unknown_key(key: Any, known: Any, path: str = "") -> str:
    """Return the message about an unknown key, with its nearest neighbour."""
    full = f"{path}.{key}" if path else str(key)
    if isinstance(key, bool):
        return f"unknown key {full!r}: YAML reads yes, no, on and off as true and false, unless they are quoted"
    parent, dot, name = str(key).partition(".")
    if dot and parent in known:
        return f"unknown key {full!r}: in a file, keys stand inside each other, {parent}: {{{name}: ...}}"
    return f"unknown key {full!r}{nearest(str(key), known, path)}"


def as_one_message(faults: Sequence[str]) -> str:
    """Join all faults into one message of one line."""
    if len(faults) == 1:
        return faults[0]
    return f"{len(faults)} faults: " + "  ".join(f"({number}) {fault}" for number, fault in enumerate(faults, 1))


def plain(settings: Any, path: str = "", tables: Tables | None = None) -> Any:
    """The reverse of `build`: typed settings to plain values, choices with their `name`, or `class_path`."""
    tables = tables or {}
    if isinstance(settings, list | tuple):
        return [plain(item) for item in settings]
    if not dataclasses.is_dataclass(settings):
        return settings
    own = {
        field.name: plain(getattr(settings, field.name), f"{path}.{field.name}" if path else field.name, tables)
        for field in dataclasses.fields(settings)
    }
    if path not in tables:
        return own
    for name, cls in tables[path].items():
        if type(settings) is cls:
            return {"name": name, **own}
    return {"class_path": f"{type(settings).__module__}.{type(settings).__qualname__}", "init_args": own}


def _build_choice(table: dict[str, type], values: Any, path: str, tables: Tables, faults: list[Fault]) -> Any:
    if not isinstance(values, dict):
        raise InputError(f"{path}: keys and values are expected, got {values!r}")
    rest = dict(values)
    name = rest.pop("name", next(iter(table)))
    if not isinstance(name, str) or name not in table:
        raise InputError(f"{path}.name is {name!r}{nearest(str(name), table)}")
    return build(table[name], rest, path, tables, faults)


def _item_class(hint: Any) -> type | None:
    """The dataclass that a list is of."""
    item = typing.get_args(hint)[0] if typing.get_origin(hint) is list else None
    return item if isinstance(item, type) and dataclasses.is_dataclass(item) else None


def _listed(value: Any, path: str) -> list[Any]:
    if isinstance(value, str):
        value = _plain_value(value, path)
    if not isinstance(value, list):
        raise InputError(f"{path}: a list is expected, got {value!r}")
    return value


def _typed(value: Any, hint: Any, path: str) -> Any:
    """Check one value with jsonargparse, which also reads text as the number or list that is asked for."""
    from jsonargparse import ArgumentError, ArgumentParser

    if isinstance(value, str):
        value = _with_variables(value, path)
        if value == "null" and type(None) in typing.get_args(hint):
            return None
        if hint == str | None:
            # jsonargparse reads text as YAML, in which `#x`, `&x` and `~` are null.
            return value
    if isinstance(value, dict):
        value = {_with_variables(str(key), path): item for key, item in value.items()}
    if typing.get_origin(hint) is dict:
        if not isinstance(value, dict):
            raise InputError(f"{path}: keys and values are expected, got {value!r}")
        items = {key: _plain_value(item, f"{path}.{key}") for key, item in value.items()}
        for key, item in items.items():
            _refuse_not_finite(item, f"{path}.{key}")
        return items
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=hint)
    try:
        typed = parser.parse_object({"value": value}).value
    except ArgumentError:
        raise InputError(f"{path}: expected {_type_name(hint)}, got {value!r}") from None
    _refuse_not_finite(typed, path)
    return typed


def _refuse_not_finite(value: Any, path: str) -> None:
    """Refuse NaN and infinities, alone or in lists and mappings; no setting means either.

    Raises:
        InputError: the message names the key.
    """
    if isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            _refuse_not_finite(item, path)
    elif isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{path}: a finite number is expected, got {value}")


def _plain_value(value: Any, path: str) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return yaml.load(value, Loader=_StrictLoader)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise InputError(f"{path}: not readable as YAML: {value!r}") from None


def _with_variables(text: str, path: str) -> str:
    """Replace `${NAME}`, and a leading `~/` by the home folder, which only a shell would do."""

    def replace(match: re.Match[str]) -> str:
        name = match[2]
        if match[1]:
            return f"${{{name}}}"
        if _SECRET.search(name):
            raise InputError(f"{path} uses ${{{name}}}: what looks like a secret is not written to a run's files")
        if name not in os.environ:
            raise InputError(f"{path} uses ${{{name}}}, but this environment variable is not set")
        return os.environ[name]

    home = os.path.expanduser("~/") if text.startswith("~/") else ""
    return home + _VARIABLE.sub(replace, text.removeprefix("~/") if home else text)


def _type_name(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin in (typing.Union, types.UnionType):
        return " or ".join("null" if a is type(None) else _type_name(a) for a in arguments)
    if arguments:
        return f"{origin.__name__} of {', '.join(dict.fromkeys(map(_type_name, arguments)))}"
    return str(getattr(hint, "__name__", hint))
