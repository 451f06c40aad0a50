"""Experiment files with comments: a sentence above each key describes it, and options stand in comments."""

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from bert_lightning.config.docstrings import capitalised, first_sentence
from bert_lightning.config.keys import Section, all_sections
from bert_lightning.config.variables import with_literal_variables
from bert_lightning.config.yaml_files import flow_yaml

_WIDTH = 100


class Entry(NamedTuple):
    """A key of an experiment file.

    Attributes:
        path: its dotted path.
        value: its value, or the one that its comment suggests.
        is_set: False if the key stands in a comment.
        note: a sentence after that of the key's description, such as what was found in the data.
    """

    path: str
    value: object
    is_set: bool = True
    note: str = ""


def commented_yaml(entries: Sequence[Entry], task: str) -> str:
    """Return entries as YAML, nested, each below the first sentence of its description.

    Args:
        entries: in the order of the file; keys of one section follow each other.
        task: the value of the key `task`, which decides what keys mean.
    """
    descriptions = _descriptions(all_sections(task), {entry.path: entry.value for entry in entries})
    lines: list[str] = []
    open_sections: list[str] = []
    for entry in entries:
        *parents, name = entry.path.split(".")
        depth = next((n for n, pair in enumerate(zip(parents, open_sections)) if pair[0] != pair[1]), None)  # noqa: B905
        depth = min(len(parents), len(open_sections)) if depth is None else depth
        for number in range(depth, len(parents)):
            section = ".".join(parents[: number + 1])
            is_set = any(each.is_set and f"{each.path}.".startswith(f"{section}.") for each in entries)
            lines += [""] * (number == 0)
            lines.append(f"{_margin(number, is_set)}{parents[number]}:")
        if not parents:
            lines += [""] * bool(open_sections)
        open_sections = parents
        text = " ".join(filter(None, (capitalised(first_sentence(descriptions.get(entry.path, ""))), entry.note)))
        lines += _comment(text, "  " * len(parents))
        value = flow_yaml(with_literal_variables(entry.value))
        lines.append(f"{_margin(len(parents), entry.is_set)}{flow_yaml(name)}: {value}")
    return "\n".join(lines) + "\n"


def entries_of(values: Mapping[str, object], path: str = "") -> Iterator[Entry]:
    """Yield an entry for each value of nested keys; an empty section is a value."""
    for name, value in values.items():
        full = f"{path}.{name}" if path else name
        if isinstance(value, dict) and value and all(isinstance(key, str) and "." not in key for key in value):
            yield from entries_of(value, full)
        else:
            yield Entry(full, value)


def _descriptions(sections: Iterable[Section], values: Mapping[str, object]) -> dict[str, str]:
    """Return path -> description, of the choices that the values name."""
    return {
        key.path: key.description
        for section in sections
        for key in section.keys
        if key.choice is None or values.get(f"{key.choice[0]}.name", key.choice[1]) == key.choice[1]
    }


def _margin(depth: int, is_set: bool) -> str:
    # There is no blank after the #, so that the key is indented correctly once the # is removed.
    return "  " * depth if is_set else "  " * depth + "#"


def _comment(text: str, indent: str) -> list[str]:
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=f"{indent}# ",
        subsequent_indent=f"{indent}# ",
        break_long_words=False,
        break_on_hyphens=False,
    )
