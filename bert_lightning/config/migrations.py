"""Keys that were renamed or moved: configurations of earlier versions stay readable.

The table applies to every source of settings: saved runs, experiment files, and overrides on the command line.
"""

import logging
from collections.abc import Iterable
from typing import Any, NamedTuple

from bert_lightning.config.yaml_files import yaml_value
from bert_lightning.errors import InputError

log = logging.getLogger(__name__)


class Moved(NamedTuple):
    """A key that has another name since some version."""

    old: str
    """dotted key of earlier versions"""
    new: str
    """dotted key of today"""
    default: object
    """its value if nobody sets it; runs of earlier versions saved it for every task"""


MOVED = (
    Moved("model.crf", "model.head.crf", default=False),
    Moved("model.answerability", "model.head.answerability", default=False),
)
_warned: set[str] = set()


def migrate(values: dict[str, Any], source: str | None = None) -> dict[str, Any]:
    """Return nested keys with every old key under its new name.

    Args:
        values: nested keys of one source.
        source: name of the source, for messages. The user is warned once about each old key that is not at its
            default; None does not warn.

    Raises:
        InputError: the source has both the old and the new key.

    >>> migrate({"model": {"size": "tiny", "crf": True}})
    {'model': {'size': 'tiny', 'head': {'crf': True}}}
    """
    for moved in MOVED:
        *parents, last = moved.old.split(".")
        if last not in (_section(values, parents) or {}):
            continue
        *new_parents, new_last = moved.new.split(".")
        if new_last in (_section(values, new_parents) or {}):
            before = f"{source}: " if source is not None else ""
            raise InputError(
                f"{before}{moved.old} is the old name of {moved.new}, and both are set: remove {moved.old}"
            )
        values = _copied(values, parents)
        value = _existing(values, parents).pop(last)
        values = _copied(values, new_parents)
        _existing(values, new_parents)[new_last] = value
        has_effect = yaml_value(value, moved.old) != moved.default
        if source is not None and has_effect and moved.old not in _warned:
            _warned.add(moved.old)
            log.warning("%s: %s is now called %s; the old name still works", source, moved.old, moved.new)
    return values


def without_needless(values: dict[str, Any], section: str, known: Iterable[str]) -> dict[str, Any]:
    """Drop moved keys that a section of this task does not have, if they hold their default.

    Earlier versions had these keys for every task, and saved them with every run.

    >>> without_needless({"model": {"head": {"crf": False}}}, "model.head", [])
    {'model': {'head': {}}}
    """
    known = set(known)
    parents = section.split(".")
    for moved in MOVED:
        prefix, _, name = moved.new.rpartition(".")
        content = _section(values, parents) or {}
        if prefix != section or name in known or name not in content:
            continue
        if yaml_value(content[name], moved.new) == moved.default:
            values = _copied(values, parents)
            del _existing(values, parents)[name]
    return values


def _section(values: Any, path: Iterable[str]) -> dict[str, Any] | None:
    """Return the nested keys at a path; None if there are none."""
    for name in path:
        values = values.get(name) if isinstance(values, dict) else None
    return values if isinstance(values, dict) else None


def _existing(values: dict[str, Any], path: Iterable[str]) -> dict[str, Any]:
    section = _section(values, path)
    assert section is not None, "copied before"
    return section


def _copied(values: dict[str, Any], path: Iterable[str]) -> dict[str, Any]:
    """Copy the sections along a path, so that the source stays as it is. A missing section becomes an empty one."""
    copy = section = dict(values)
    for name in path:
        inner = section.get(name)
        section[name] = dict(inner) if isinstance(inner, dict) else {}
        section = section[name]
    return copy
