"""Typed settings from plain YAML values. Every error names the key, the value and what is allowed."""

import dataclasses
import math
import types
import typing
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from bert_lightning.checks import RefusedValue, class_path, name_in, nearest
from bert_lightning.config.variables import with_variables
from bert_lightning.config.yaml_files import mapping_of_text, yaml_value
from bert_lightning.errors import InputError

# Dotted path of a choice -> name -> dataclass.
Tables = dict[str, dict[str, type]]
# Choices whose name is part of every identity. Later ones are left out while they are the default.
_ALWAYS_NAMED = ("optimizer", "schedule", "data.masking")


class Ready(NamedTuple):
    """A value among plain ones that has been checked and has its type already."""

    value: object


# The dotted key that a fault is about, and the message.
Fault = tuple[str, str]


def build(cls: type, values: object, path: str, tables: Tables, faults: list[Fault]) -> Any:
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
                # The value that replaced a refused one may be the cause.
                return None
            text = str(error).strip()
            if not text:
                faults.append((path, f"{path}: {cls.__name__} refuses its values without a message"))
                return None
            field = text.split()[0].rstrip(":")
            faults.append((f"{path}.{field}", f"{path}.{text}") if path else (field, text))
            if name is None or name not in filled:
                return None
            refused.add(name)
            # Continue with a value that is likely allowed, to find the other refused values.
            default = cls.__dataclass_fields__[name].default  # type: ignore[attr-defined]
            filled[name] = 1 if default in (None, dataclasses.MISSING) else default


def fill(cls: type, values: object, path: str, tables: Tables, faults: list[Fault]) -> dict[str, Any] | None:
    """Return typed values for the fields of `cls`, before `cls` itself checks them.

    If a key is unknown or missing, or a value has another type, return None and add an entry to `faults` for each.
    """
    try:
        values = {} if values is None else mapping_of_text(values, path)
    except InputError as error:
        faults.append((path, str(error)))
        return None
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
        if value is None and fields[key].default is None:
            filled[key] = None
            continue
        try:
            filled[key] = _value(hints[key], value, full, tables, faults)
        except InputError as error:
            faults.append((full, str(error)))
    for name, field in fields.items():
        if name not in values and not has_default(field):
            full = f"{path}.{name}" if path else name
            faults.append((full, f"the key {full} is missing"))
    return filled if len(faults) == num_before else None


def has_default(field: dataclasses.Field[Any]) -> bool:
    """Return whether a key may be left out."""
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def default_of(field: dataclasses.Field[Any]) -> object:
    """Return the default of a field that has one."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _value(hint: Any, value: object, path: str, tables: Tables, faults: list[Fault]) -> Any:
    if isinstance(value, Ready):
        return value.value
    if path in tables:
        return _build_choice(tables[path], value, path, tables, faults)
    if (section := _section_class(hint)) is not None:
        # An optional section is absent if it is null, also as text from the command line.
        return None if section is not hint and value == "null" else build(section, value, path, tables, faults)
    if (item := _item_class(hint)) is not None:
        return [
            build(item, entry, f"{path}.{number}", tables, faults)
            for number, entry in enumerate(_listed(value, path))
        ]
    return typed_value(value, hint, path)


def unknown_key(key: object, known: Iterable[str], path: str = "") -> str:
    """Return the message about an unknown key, with the nearest known key."""
    known = list(known)
    full = f"{path}.{key}" if path else str(key)
    if isinstance(key, bool):
        return f"unknown key {full!r}: YAML reads yes, no, on and off as true and false, unless they are quoted"
    parent, dot, name = str(key).partition(".")
    if dot and parent in known:
        return f"unknown key {full!r}: in a file, write nested keys, {parent}: {{{name}: ...}}"
    return f"unknown key {full!r}{nearest(str(key), known, path)}"


def as_one_message(faults: Sequence[str], most: int | None = None) -> str:
    """Join faults into one message of one line, which names at most `most` of them.

    >>> as_one_message(["a is 0", "b is 1", "c is 2"], most=2)
    '3 faults: (1) a is 0  (2) b is 1  and 1 more'
    """
    if len(faults) == 1:
        return faults[0]
    named = [f"({number}) {fault}" for number, fault in enumerate(faults[:most], 1)]
    rest = len(faults) - len(named)
    return f"{len(faults)} faults: " + "  ".join([*named, f"and {rest} more"] if rest else named)


def plain(settings: object, path: str = "", tables: Tables | None = None) -> Any:
    """Return typed settings as plain values, the reverse of `build`; choices have their `name` or `class_path`."""
    tables = tables or {}
    if isinstance(settings, list | tuple):
        return [plain(item) for item in settings]
    if not dataclasses.is_dataclass(settings):
        return settings
    values = {
        field.name: plain(getattr(settings, field.name), f"{path}.{field.name}" if path else field.name, tables)
        for field in dataclasses.fields(settings)
    }
    return _as_choice(settings, values, path, tables)


def changed(settings: object, path: str = "", tables: Tables | None = None) -> Any:
    """Return typed settings as `plain` does, but without the fields that have their default.

    A field without a default stays, and so do the `name` and `class_path` of a choice that is not the default.
    Those of `_ALWAYS_NAMED` stay always.

    >>> from bert_lightning.optim.optimizers import AdamW, OPTIMIZERS
    >>> changed(AdamW(learning_rate=0.1), "optimizer", {"optimizer": OPTIMIZERS})
    {'name': 'adamw', 'learning_rate': 0.1}
    """
    tables = tables or {}
    if isinstance(settings, list | tuple):
        return [changed(item) for item in settings]
    if not dataclasses.is_dataclass(settings):
        return settings
    values, defaults = {}, _defaults(settings)
    for field in dataclasses.fields(settings):
        value, full = getattr(settings, field.name), f"{path}.{field.name}" if path else field.name
        is_choice = full in _ALWAYS_NAMED or (full in tables and value != defaults.get(field.name))
        is_section = is_choice or (full not in tables and dataclasses.is_dataclass(value))
        if is_section or field.name not in defaults or value != defaults[field.name]:
            values[field.name] = changed(value, full, tables)
    # Sections that hold only defaults are left out, so that a new section does not change the hash. A section that is
    # absent by default stays.
    values = {name: value for name, value in values.items() if value != {} or defaults.get(name, value) is None}
    return _as_choice(settings, values, path, tables)


def _defaults(settings: Any) -> dict[str, Any]:
    """Return the values of the fields that have defaults, as they are if nobody sets them."""
    fields = dataclasses.fields(settings)
    defaults = {field.name: default_of(field) for field in fields if has_default(field)}
    required = {field.name: getattr(settings, field.name) for field in fields if field.name not in defaults}
    try:
        # A class may derive a value when it is made, such as the warm-up of a schedule.
        made = type(settings)(**required)
    except ValueError:
        return defaults
    return {name: getattr(made, name) for name in defaults}


def _as_choice(settings: object, values: dict[str, object], path: str, tables: Tables) -> dict[str, object]:
    """Add the `name` or `class_path` of a choice to its keys."""
    if path not in tables:
        return values
    kind = type(settings)
    if kind in tables[path].values():
        return {"name": name_in(tables[path], kind), **values}
    return {"class_path": class_path(kind), "init_args": values}


def _build_choice(table: dict[str, type], values: object, path: str, tables: Tables, faults: list[Fault]) -> Any:
    if not isinstance(values, dict):
        raise InputError(f"{path}: keys and values are expected, got {values!r}")
    rest = dict(values)
    name = rest.pop("name", next(iter(table)))
    if not isinstance(name, str) or name not in table:
        raise InputError(f"{path}.name is {name!r}{nearest(str(name), table)}")
    return build(table[name], rest, path, tables, faults)


def _section_class(hint: Any) -> type | None:
    """Return the dataclass of a section, also of one that may be null; None for other types."""
    options = [each for each in typing.get_args(hint) if each is not type(None)]
    [single] = options if type(None) in typing.get_args(hint) and len(options) == 1 else [hint]
    return single if isinstance(single, type) and dataclasses.is_dataclass(single) else None


def _item_class(hint: Any) -> type | None:
    """Return the dataclass of a list's items; None for other types."""
    item = typing.get_args(hint)[0] if typing.get_origin(hint) is list else None
    return item if isinstance(item, type) and dataclasses.is_dataclass(item) else None


def _listed(value: object, path: str) -> list[object]:
    if isinstance(value, str):
        value = yaml_value(value, path)
    if not isinstance(value, list):
        raise InputError(f"{path}: a list is expected, got {value!r}")
    return value


def typed_value(value: object, hint: Any, path: str) -> Any:
    """Check one value with jsonargparse, which also reads text as the number or list that the type expects.

    The type must hold no class or function: jsonargparse would import the one that a value names.

    Raises:
        InputError: the value has another type. The message names the key.
    """
    from jsonargparse import ArgumentError, ArgumentParser

    if isinstance(value, str):
        value = with_variables(value, path)
        if value == "null" and type(None) in typing.get_args(hint):
            return None
        if hint == str | None:
            # jsonargparse reads text as YAML, in which `#x`, `&x` and `~` are null.
            return value
    if dict in {typing.get_origin(each) for each in (hint, *typing.get_args(hint))}:
        value = mapping_of_text(value, path)
    if isinstance(value, dict):
        texts = [with_variables(str(key), path) for key in value]
        for number, text in enumerate(texts):
            if text in texts[:number]:
                raise InputError(f"{path}: the key {text!r} is given twice, as a text and as another value")
        value = dict(zip(texts, value.values(), strict=True))
    if typing.get_origin(hint) is dict:
        if not isinstance(value, dict):
            raise InputError(f"{path}: keys and values are expected, got {value!r}")
        items = _items(value, typing.get_args(hint)[1], path)
        for key, item in items.items():
            _refuse_not_finite(item, f"{path}.{key}")
        return items
    if value is None and hint is not Any and type(None) not in typing.get_args(hint):
        # jsonargparse accepts null for every type.
        raise InputError(f"{path}: expected {type_name(hint)}, got null")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=hint)
    try:
        typed = parser.parse_object({"value": value}).value
    except ArgumentError:
        raise InputError(f"{path}: expected {type_name(hint)}, got {value!r}") from None
    _refuse_not_finite(typed, path)
    return typed


def _items(value: dict[str, object], hint: Any, path: str) -> dict[str, object]:
    """Return the items of a mapping, with those that the command line gives as text as the values that they spell.

    Where texts are allowed, a text stays as it is: `no` in quotation marks is a word. `object` stands for values that
    are typed later.
    """
    if hint is object:
        return dict(value)
    takes_text = str in (hint, *typing.get_args(hint))
    return {
        key: item
        if takes_text and isinstance(item, str) and not item.startswith("[")
        else yaml_value(item, f"{path}.{key}")
        for key, item in value.items()
    }


def _refuse_not_finite(value: object, path: str) -> None:
    """Refuse NaN and infinities, alone or in lists and mappings, because no setting allows them.

    Raises:
        InputError: the message names the key.
    """
    if isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            _refuse_not_finite(item, path)
    elif isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{path}: a finite number is expected, got {value}")


def type_name(hint: Any) -> str:
    """Describe a type as messages and the list of keys do.

    >>> type_name(int | None), type_name(list[str])
    ('int or null', 'list of str')
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin in (typing.Union, types.UnionType):
        return " or ".join("null" if a is type(None) else type_name(a) for a in arguments)
    if arguments:
        return f"{origin.__name__} of {', '.join(dict.fromkeys(map(type_name, arguments)))}"
    return str(getattr(hint, "__name__", hint))
