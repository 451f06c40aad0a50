"""Checks of the values that users set. All messages have the same form, and the error names the value.

A settings class calls them in `__post_init__`. The reader of configuration files puts the path of the section before
the name.
"""

import difflib
from collections.abc import Iterable, Mapping

# A message lists at most this many names if none is near. Our own lists are shorter, but a vocabulary is longer.
_MOST_NAMES = 12


class RefusedValue(ValueError):
    """Error about one value that is not allowed, whatever the other values are.

    Attributes:
        name: the field that holds the value.
        allowed: what the value must do, such as `be at least 1`.
    """

    def __init__(self, name: str, value: object, allowed: str) -> None:
        super().__init__(f"{name} is {value}; it must {allowed}")
        self.name, self.allowed = name, allowed


def require_at_least(settings: object, least: float, *names: str) -> None:
    """Check that fields are at least `least`. A field that is None is allowed.

    Raises:
        RefusedValue: a field is smaller.

    >>> from types import SimpleNamespace
    >>> require_at_least(SimpleNamespace(batch_size=0), 1, "batch_size")
    Traceback (most recent call last):
    bert_lightning.checks.RefusedValue: batch_size is 0; it must be at least 1
    """
    for name, value in _values(settings, names):
        if not value >= least:
            raise RefusedValue(name, value, f"be at least {least}")


def require_positive(settings: object, *names: str) -> None:
    """Check that fields are more than 0. A field that is None is allowed.

    Raises:
        RefusedValue: a field is 0 or less.
    """
    for name, value in _values(settings, names):
        if not value > 0:
            raise RefusedValue(name, value, "be more than 0")


def require_between(settings: object, low: float, high: float, *names: str) -> None:
    """Check that fields are between two bounds, both included. A field that is None is allowed.

    Raises:
        RefusedValue: a field is outside the bounds.
    """
    for name, value in _values(settings, names):
        if not low <= value <= high:
            raise RefusedValue(name, value, f"be between {low} and {high}")


def require_below_one(settings: object, *names: str) -> None:
    """Check that fields, such as a dropout rate, are in [0, 1). A field that is None is allowed.

    Raises:
        RefusedValue: a field is outside that range.
    """
    for name, value in _values(settings, names):
        if not 0 <= value < 1:
            raise RefusedValue(name, value, "be in [0, 1)")


def require_fraction(settings: object, *names: str) -> None:
    """Check that fields, such as a decay factor, are in (0, 1]. A field that is None is allowed.

    Raises:
        RefusedValue: a field is outside that range.
    """
    for name, value in _values(settings, names):
        if not 0 < value <= 1:
            raise RefusedValue(name, value, "be more than 0 and at most 1")


def _values(settings: object, names: Iterable[str]) -> Iterable[tuple[str, float]]:
    return ((name, value) for name in names if (value := getattr(settings, name)) is not None)


def refuse_nameless_runs(settings: object, name: str) -> None:
    """Refuse a mapping of names to runs in which a run is not named.

    Raises:
        ValueError: a value is not text, or is empty.
    """
    for key, path in getattr(settings, name).items():
        if not isinstance(path, str) or not path.strip():
            raise ValueError(f"{name}.{key} is {path!r}; it must name a run")


def refuse_other_weights(settings: object, name: str, weighted: str) -> None:
    """Check that each entry of a mapping has one positive weight. No weights at all are allowed.

    Args:
        settings: the settings.
        name: the attribute with the weights.
        weighted: the attribute with the entries that they weigh.

    Raises:
        ValueError: an entry is unknown or lacks a weight, or a weight is not a positive number.
    """
    weights, entries = getattr(settings, name), getattr(settings, weighted)
    for key, weight in weights.items():
        if key not in entries:
            end = nearest(key, entries) if entries else ", which is empty"
            raise ValueError(f"{name}.{key} weighs no entry of {weighted}{end}")
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < float("inf"):
            raise ValueError(f"{name}.{key} is {weight!r}; it must be a positive number")
    lacking = [key for key in entries if key not in weights]
    if weights and lacking:
        raise ValueError(f"{name} has no weight for {', '.join(lacking)}: set one for each of {weighted}")


def refuse_empty_paths(settings: object, *names: str) -> None:
    """Refuse empty and blank paths, because an empty path would mean the current folder.

    Raises:
        ValueError: a path is empty.
    """
    for name in names:
        value = getattr(settings, name)
        if isinstance(value, str) and not value.strip():
            raise ValueError(f"{name} is empty: name a file or folder, or leave the key out")


def nearest(name: object, known: Iterable[object], prefix: str = "", *, cutoff: float = 0.5) -> str:
    """Return the end of a message about an unknown name: the nearest existing name, or up to 12 if none is near.

    Args:
        name: the unknown name; its text counts.
        known: the names that exist.
        prefix: put before the nearest name with a dot, such as the section of a key.
        cutoff: how similar the nearest name must be, from 0 to 1 (`difflib.get_close_matches`).

    >>> nearest("max_step", ["max_steps", "devices"], "trainer")
    "; did you mean 'trainer.max_steps'?"
    >>> nearest("x", ["max_steps", "devices"])
    '; known: max_steps, devices'
    >>> nearest("x", range(10, 30_000))
    '; known: 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21 and 29,978 more'
    """
    names = [str(each) for each in known]
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=cutoff)
    dotted = f"{prefix}." if prefix else ""
    if near:
        return f"; did you mean '{dotted}{near[0]}'?"
    more = len(names) - _MOST_NAMES
    return f"; known: {', '.join(names[:_MOST_NAMES])}{f' and {more:,} more' if more > 0 else ''}"


def class_path(cls: type) -> str:
    """Return module and name of a class, as `class_path` names it in a configuration.

    >>> class_path(RefusedValue)
    'bert_lightning.checks.RefusedValue'
    """
    return f"{cls.__module__}.{cls.__qualname__}"


def name_in(table: Mapping[str, type], cls: type) -> str:
    """Return the name of a class in the table of a choice, or the class path of one that is not in it.

    >>> name_in({"refused": RefusedValue}, RefusedValue), name_in({}, RefusedValue)
    ('refused', 'bert_lightning.checks.RefusedValue')
    """
    return next((name for name, each in table.items() if each is cls), class_path(cls))


def nearest_or_own(name: str, known: Iterable[object]) -> str:
    """Return the end of a message about an unknown name that a user's module may register.

    >>> nearest_or_own("my-task", ["pretraining"])
    '; known: pretraining; for one of your own, name its module under the key modules'
    """
    end = nearest(name, known)
    return end if end.endswith("?") else f"{end}; for one of your own, name its module under the key modules"
