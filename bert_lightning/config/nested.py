"""Nested keys of a configuration, addressed by dotted paths such as `model.head.crf`."""

from typing import cast


def at(values: object, path: str) -> object:
    """Return the value at a dotted path; None if there is none. An empty path is the whole.

    >>> at({"model": {"size": "tiny"}}, "model.size")
    'tiny'
    """
    for name in path.split(".") if path else ():
        values = values.get(name) if isinstance(values, dict) else None
    return values


def section_at(values: object, path: str) -> dict[str, object]:
    """Return the section at a dotted path; an empty one if there is none."""
    section = at(values, path)
    return section if isinstance(section, dict) else {}


def copied(values: dict[str, object], path: str) -> tuple[dict[str, object], dict[str, object]]:
    """Copy the sections along a dotted path, so that the copy can be changed. A missing section becomes an empty one.

    Returns:
        The copy of the whole, and in it the section at the path.
    """
    whole = section = dict(values)
    for name in path.split(".") if path else ():
        inner = section.get(name)
        section[name] = dict(inner) if isinstance(inner, dict) else {}
        section = cast(dict[str, object], section[name])
    return whole, section


def split(path: str) -> tuple[str, str]:
    """Split a dotted path into its section and the key in it.

    >>> split("data.masking"), split("optimizer")
    (('data', 'masking'), ('', 'optimizer'))
    """
    section, _, key = path.rpartition(".")
    return section, key
