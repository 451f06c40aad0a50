"""Reading of JSON: whole files, single lines, and values whose type is checked."""

import json
from collections import Counter
from typing import TypeVar

from bert_lightning.data.reading.lines import numbered_lines
from bert_lightning.data.reading.values import KIND_NAMES, as_text, kind_of
from bert_lightning.errors import InputError

T = TypeVar("T")
# Longer values are shortened in messages.
_MAX_SHOWN = 40


def read_json(source: str) -> object:
    """Read a whole file, of any size and on any number of lines, as one JSON value.

    Raises:
        InputError: the file is unreadable, or not JSON. The message names the line.
    """
    text = "".join(piece for _, piece in numbered_lines(source, cut=True, carriage_returns="allow"))
    return _parse(source, text, is_line=False)


def parse_json_line(location: str, line: str) -> dict[str, object]:
    """Parse a line that holds one JSON object.

    Raises:
        InputError: the line is not a JSON object.

    >>> parse_json_line("a.jsonl: line 1", '{"text": "a boat"}')
    {'text': 'a boat'}
    """
    # Remove the end of the line, because Python would count a second line after it.
    values = _parse(location, line.rstrip(), is_line=True)
    if not isinstance(values, dict):
        raise InputError(f"{location}: a JSON object is expected, not {kind_of(values)}")
    return values


def field(location: str, values: object, key: str, kind: type[T]) -> T:
    """Return the value under a key after checking its type.

    Args:
        location: the location of the object, for messages.
        values: the JSON object.
        key: the key that it must have.
        kind: the type of the value. Text must not hold a lone surrogate, which is half a character.

    Raises:
        InputError: `values` is not an object, has no such key, or holds another type under it.

    >>> field("a.json", {"id": "q1"}, "id", str)
    'q1'
    >>> field("a.json", {"id": 7}, "id", str)
    Traceback (most recent call last):
    bert_lightning.errors.InputError: a.json: the value of 'id' is 7, but text is expected
    """
    return typed(location, f"the value of {key!r}", required(location, values, key), kind)


def optional_text(location: str, values: dict[str, object], key: str) -> str:
    """Return the text under a key; empty if the key is missing or null.

    Raises:
        InputError: the value is not text.
    """
    return "" if values.get(key) is None else field(location, values, key, str)


def required(location: str, values: object, key: str) -> object:
    """Return the value under a key, of any type.

    Raises:
        InputError: `values` is not an object, or has no such key.
    """
    values = typed(location, "the record", values, dict)
    if key not in values:
        keys = ", ".join(map(str, values)) or "none"
        raise InputError(f"{location}: there is no key {key!r}; the keys are: {keys}")
    return values[key]


def typed(location: str, what: str, value: object, kind: type[T]) -> T:
    """Return a value unchanged after checking its type.

    Args:
        location: the location of the value, for messages.
        what: the name of the value in messages.
        value: the JSON value.
        kind: the type that it must have. Text must not hold a lone surrogate, which is half a character.

    Raises:
        InputError: the value has another type.
    """
    # In Python a bool is an int; in JSON it is not.
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise InputError(f"{location}: {what} is {_shown(value)}, but {KIND_NAMES[kind]} is expected")
    if isinstance(value, str):
        as_text(location, what, value)
    return value


def texts(location: str, what: str, value: object) -> list[str]:
    """Return a value unchanged after checking that it is a list of texts.

    Raises:
        InputError: the value is not a list, or an item is not text.
    """
    return [
        typed(location, f"item {number} of {what}", item, str)
        for number, item in enumerate(typed(location, what, value, list))
    ]


def _shown(value: object) -> str:
    if isinstance(value, list | dict):
        return KIND_NAMES[type(value)]
    text = "null" if value is None else repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 3]}..."


def _parse(location: str, text: str, *, is_line: bool) -> object:
    """Parse a whole file, or one line if `location` already names it."""
    try:
        return _DECODER.decode(text)
    except InputError as error:
        raise InputError(f"{location}: {error}") from None
    except json.JSONDecodeError as error:
        line = "" if is_line else f"line {error.lineno}: "
        raise InputError(f"{location}: {line}not JSON: {error.msg}, column {error.colno}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{location}: not JSON: {error}") from None


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Build a JSON object, and refuse a repeated key: Python's reader would silently keep its last value."""
    values = dict(pairs)
    if len(values) < len(pairs):
        name = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise InputError(f"the key {name!r} occurs twice in one JSON object")
    return values


_DECODER = json.JSONDecoder(object_pairs_hook=_object)
