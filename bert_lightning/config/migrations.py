"""Keys that were renamed or moved: configurations of earlier versions stay readable.

The table applies to every source of settings: saved runs, experiment files, and overrides on the command line.
"""

import logging
import os
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from bert_lightning.config.nested import at, copied, section_at, split
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
WARNED_VARIABLE = "BERT_LIGHTNING_WARNED_OF"
"""Environment variable with the old keys that were warned about, so that processes started later do not repeat it."""


def migrate(values: dict[str, object], source: str | None = None) -> dict[str, object]:
    """Return nested keys with every old key under its new name.

    Args:
        values: nested keys of one source.
        source: name of the source, for messages; None if they shall not name it.

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
        if not isinstance(at(values, new_section), dict | None):
            # This is not a section, which is reported later. The moved value must not hide that.
            continue
        values, section = copied(values, new_section)
        section[new_key] = value
    return values


def old_keys(values: Mapping[str, object]) -> list[Moved]:
    """Return the moved keys that one source has under their old names, before `migrate`.

    >>> [moved.new for moved in old_keys({"model": {"size": "tiny", "crf": True}})]
    ['model.head.crf']
    """
    found = []
    for moved in MOVED:
        section, key = split(moved.old)
        if key in section_at(values, section):
            found.append(moved)
    return found


def warn_of_old_keys(values: Mapping[str, object], source: str) -> None:
    """Warn once about each old key of a source that is not at its default.

    Args:
        values: nested keys of the source, before `migrate`.
        source: name of the source.
    """
    for moved in old_keys(values):
        warned = os.environ.get(WARNED_VARIABLE, "").split()
        if not _is_default(at(values, moved.old), moved) and moved.old not in warned:
            os.environ[WARNED_VARIABLE] = " ".join([*warned, moved.old])
            log.warning("%s: %s is now called %s; the old name still works", source, moved.old, moved.new)


def with_old_name(message: str, key: str, values: Mapping[str, object]) -> str:
    """Return a message about a key with the name that a source, before `migrate`, has for it.

    >>> with_old_name("model.head.crf: expected bool", "model.head.crf", {"model": {"crf": 1}})
    'model.crf: expected bool'
    """
    for moved in old_keys(values):
        if key == moved.new:
            message = message.replace(moved.new, moved.old, 1)
    return message


def _is_default(value: object, moved: Moved) -> bool:
    """Return whether a value, perhaps given as text, is the default; a number is no bool here."""
    try:
        value = yaml_value(value, moved.new)
    except InputError:
        return False
    return type(value) is type(moved.default) and value == moved.default


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
        if _is_default(content[key], moved):
            values, copy = copied(values, section)
            del copy[key]
    return values
