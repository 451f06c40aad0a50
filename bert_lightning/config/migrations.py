"""Keys that were renamed or moved: configurations of earlier versions stay readable.

The table applies to every source of settings: saved runs, experiment files, and overrides on the command line.
"""

import logging
from collections.abc import Iterable
from typing import NamedTuple

from bert_lightning.config.nested import copied, section_at, split
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


def migrate(values: dict[str, object], source: str | None = None) -> dict[str, object]:
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
        (old_section, old_key), (new_section, new_key) = split(moved.old), split(moved.new)
        if old_key not in section_at(values, old_section):
            continue
        if new_key in section_at(values, new_section):
            before = f"{source}: " if source is not None else ""
            raise InputError(
                f"{before}{moved.old} is the old name of {moved.new}, and both are set: remove {moved.old}"
            )
        values, section = copied(values, old_section)
        value = section.pop(old_key)
        values, section = copied(values, new_section)
        section[new_key] = value
        has_effect = yaml_value(value, moved.old) != moved.default
        if source is not None and has_effect and moved.old not in _warned:
            _warned.add(moved.old)
            log.warning("%s: %s is now called %s; the old name still works", source, moved.old, moved.new)
    return values


def without_needless(values: dict[str, object], section: str, known: Iterable[str]) -> dict[str, object]:
    """Drop moved keys that a section of this task does not have, if they hold their default.

    Earlier versions had these keys for every task, and saved them with every run.

    >>> without_needless({"model": {"head": {"crf": False}}}, "model.head", [])
    {'model': {'head': {}}}
    """
    known = set(known)
    for moved in MOVED:
        moved_to, key = split(moved.new)
        content = section_at(values, section)
        if moved_to != section or key in known or key not in content:
            continue
        if yaml_value(content[key], moved.new) == moved.default:
            values, copy = copied(values, section)
            del copy[key]
    return values
