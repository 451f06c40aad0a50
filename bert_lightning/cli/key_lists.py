"""Lists of configuration keys: as text for a terminal or a pipe, as JSON, and as the page `docs/configuration.md`."""

import textwrap
from collections.abc import Callable, Iterator, Sequence

from bert_lightning.checkpoints.plain_text import markdown, markdown_code
from bert_lightning.config.docstrings import capitalised, first_sentence
from bert_lightning.config.keys import Key, Section

_PAGE_WIDTH = 124
_INTRODUCTION = """\
# Configuration

Every key of an experiment, with its type, its default and what it does. A file nests the keys,
`trainer: {max_steps: 100}`, and the command line writes them with dots, `--trainer.max_steps 100`.

```console
$ bert-lightning keys optimizer
...
```

`keys` prints the same list. `fit --print-config` prints every key of one experiment with its value, and
`bert-lightning init` writes a file to start from. An item of a list is number 0 here.

This page is generated from the docstrings of the code. After changing one, run
`bert-lightning keys --markdown > docs/configuration.md`.
"""


def text_lines(sections: Sequence[Section], width: int | None) -> Iterator[str]:
    """Yield the lines of a list: two for each key, and the whole description if only one key is listed.

    Args:
        sections: what to list.
        width: characters of a line; None leaves each description in one line, as pipes and `grep` like it.
    """
    complete = len({key.path for section in sections for key in section.keys}) == 1
    for number, section in enumerate(sections):
        if number:
            yield ""
        yield from _wrapped(section.title, "", width)
        for paragraph in section.paragraphs if complete else section.paragraphs[:1]:
            yield from _wrapped(paragraph, "", width)
        for key in section.keys:
            yield f"  {key.path}: {_facts(key, section)}"
            description = key.description if complete else first_sentence(key.description)
            yield from _wrapped(description, "      ", width)


def json_values(sections: Sequence[Section]) -> list[dict[str, object]]:
    """Return one object per key."""
    return [
        {
            "key": key.path,
            "type": key.type,
            "required": key.default is None,
            "default": key.default,
            "allowed": key.allowed or None,
            "description": key.description,
            "tasks": list(key.tasks) or None,
            "choice": dict([key.choice]) if key.choice is not None else None,
        }
        for section in sections
        for key in section.keys
    ]


def markdown_page(sections: Sequence[Section]) -> str:
    """Return the page of all keys. It has no tables, so that a phone shows it too."""
    tops = list(dict.fromkeys(section.path.partition(".")[0] for section in sections))
    links = ", ".join(f"[`{name}`](#{name})" if name else "[top level](#top-level)" for name in tops)
    lines = [_INTRODUCTION, *_wrapped(f"Sections: {links}.", "", _PAGE_WIDTH)]
    for name in tops:
        members = [section for section in sections if section.path.partition(".")[0] == name]
        if members[0].title != (name or "top level"):
            lines += ["", f"## {name}"]
        for section in members:
            level = "##" if section.title == (name or "top level") else "###"
            lines += ["", f"{level} {markdown(section.title)}", *_markdown_section(section)]
    return "\n".join(lines) + "\n"


def _markdown_section(section: Section) -> Iterator[str]:
    for paragraph in section.paragraphs:
        yield from ("", *_wrapped(_escaped(paragraph), "", _PAGE_WIDTH))
    if section.keys:
        yield ""
    for key in section.keys:
        facts = _facts(key, section, code=markdown_code)
        entry = f"**`{key.path}`** {facts}. {_escaped(capitalised(key.description))}"
        [first, *rest] = _wrapped(entry, "  ", _PAGE_WIDTH)
        yield from (f"- {first[2:]}", *rest)


def _facts(key: Key, section: Section, code: Callable[[str], str] = str) -> str:
    """Return type, range, default and, if they are not those of the section, the tasks."""
    kind = f"{key.type}, {key.allowed}" if key.allowed else key.type
    notes = ["required" if key.default is None else f"default {code(key.default)}"]
    if key.tasks != section.tasks:
        notes.append(f"only of {', '.join(key.tasks)}")
    return f"{kind} ({'; '.join(notes)})"


def _escaped(text: str) -> str:
    """Escape a docstring for Markdown, except the code between backticks."""
    return "`".join(part if number % 2 else markdown(part) for number, part in enumerate(text.split("`")))


def _wrapped(text: str, indent: str, width: int | None) -> list[str]:
    if width is None:
        return [indent + text]
    return textwrap.wrap(
        text, width, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
