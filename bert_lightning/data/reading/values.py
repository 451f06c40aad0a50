"""The values of a row or of a JSON object: which become text, and which stand for a hidden label."""

import math
from decimal import Decimal
from numbers import Integral, Real

import numpy as np

from bert_lightning.errors import InputError

KIND_NAMES: dict[type, str] = {
    list: "a list",
    dict: "an object",
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    type(None): "null",
}
"""The types of JSON values -> their names in messages."""


def as_text(location: str, what: str, value: object) -> str:
    """Convert a value into text. All readers of tables and of raw input use this function.

    Text stays unchanged. A finite number (also `Decimal` and numpy's) and a truth value become what Python prints:
    `7`, `0.5`, `True`. Everything else is refused: null, NaN and infinities, which stand for missing values; dates;
    bytes; lists, objects and arrays.

    Args:
        location: the location of the value, for messages.
        what: the name of the value in messages.
        value: of any type.

    Raises:
        InputError: the value is none of these, or holds half a character (a lone surrogate).

    >>> as_text("a.csv: line 2", "the label", 7)
    '7'
    >>> as_text("a.csv: line 2", "the label", None)
    Traceback (most recent call last):
    bert_lightning.errors.InputError: a.csv: line 2: the label is null
    """
    if isinstance(value, str):
        if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
            raise InputError(f"{location}: {what} holds half a character (a lone surrogate)")
        return value
    if value is None:
        raise InputError(f"{location}: {what} is null")
    # numpy's truth value is neither a bool nor an Integral. NaT (a date) and pandas' NA are no numbers, so they fail.
    if isinstance(value, bool | np.bool_ | Integral):
        return str(value)
    if isinstance(value, Real | Decimal):
        if not math.isfinite(value):
            raise InputError(
                f"{location}: {what} is {float(value)}, which stands for a missing value: leave the row out"
            )
        return str(value)
    raise InputError(f"{location}: {what} holds {kind_of(value)}, not text or a number")


def kind_of(value: object) -> str:
    """Return the kind of a value, as files of data call it.

    >>> kind_of({}), kind_of([]), kind_of(None), kind_of(1.5)
    ('an object', 'a list', 'null', 'a number')
    """
    return KIND_NAMES.get(type(value), f"a {type(value).__name__}")


def is_hidden(value: object, minus_one: bool = True) -> bool:
    """Return whether a field holds no label: null, NaN, an empty or blank text, -1, or a list of only these.

    Test files hide their labels in one of these ways; hub data sets use -1.

    Args:
        value: of any type.
        minus_one: whether -1 means no label. Pass False if -1 may be a label.

    >>> [is_hidden(value) for value in (None, "", -1, ["", None], 0, "-1.5")]
    [True, True, True, True, False, False]
    """
    if isinstance(value, list | tuple):
        return all(is_hidden(item, minus_one) for item in value)
    if isinstance(value, str):
        return not value.strip() or (minus_one and value.strip() in ("-1", "-1.0"))
    if isinstance(value, Real | Decimal):
        return math.isnan(value) or (minus_one and value == -1)
    return value is None
