"""A required field of a JSON object, with its type."""

from typing import Any, TypeVar

from bert_lightning.data.reading.tables import as_text
from bert_lightning.errors import InputError

T = TypeVar("T")
_NAMES = {list: "a list", dict: "an object", str: "text", int: "a whole number", bool: "true or false"}


def field(location: str, values: Any, key: str, kind: type[T]) -> T:
    """`values[key]`, which is a `kind`; text is proper text.

    Raises:
        InputError: `values` is no object, has no such key, or another type under it.
    """
    return typed(location, f"the value of {key!r}", required(location, values, key), kind)


def required(location: str, values: Any, key: str) -> Any:
    """`values[key]` of any type.

    Raises:
        InputError: `values` is no object, or has no such key.
    """
    values = typed(location, "what stands here", values, dict)
    if key not in values:
        raise InputError(f"{location}: no key {key!r}; the keys are: {', '.join(map(str, values)) or 'none'}")
    return values[key]


def typed(location: str, what: str, value: Any, kind: type[T]) -> T:
    """`value`, which is a `kind`; `what` is how an error calls it.

    Raises:
        InputError: it is not.
    """
    # In Python a bool is an int; here it is not.
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise InputError(f"{location}: {what} is {_shortened(value)}, but {_NAMES[kind]} is expected")
    if isinstance(value, str):
        as_text(location, what, value)
    return value


def texts(location: str, what: str, value: Any) -> list[str]:
    """`value`, which is a list of texts.

    Raises:
        InputError: it is not.
    """
    return [
        typed(location, f"item {number} of {what}", item, str)
        for number, item in enumerate(typed(location, what, value, list))
    ]


def _shortened(value: Any) -> str:
    if isinstance(value, list | dict):
        return _NAMES[type(value)]
    text = "null" if value is None else repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
