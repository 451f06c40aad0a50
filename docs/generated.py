"""Parts of the site that are made while it is built, so that they cannot become outdated.

A page asks for one with a code fence of its own language:

    ```{commands}                            every command, from its --help
    ```{script} ../examples/walkthrough.py   a Python file in percent format, as text and code
"""

import ast
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from io import StringIO
from pathlib import Path
from typing import NamedTuple

from bert_lightning.cli import _parser

_FENCE = re.compile(r"^```\{(commands|script)\} *(\S*)\n```$", flags=re.MULTILINE)
_MARKER = re.compile(r"^# %%(?: .*)?$", flags=re.MULTILINE)
# argparse indents arguments and options by two, commands by four, and a meaning that has its own line by more.
_ENTRY = re.compile(r"^( {2}| {4})(\S.*?)(?:  +(\S.*))?(?:\n {6,}(.*))?$", flags=re.MULTILINE)
_NARROW, _WIDE = 76, 10_000


def expand(text: str, folder: Path) -> str:
    """Return the Markdown of a page with its generated parts in place.

    Args:
        text: the page as written.
        folder: folder of the page; paths of scripts are relative to it.
    """

    def part(fence: re.Match[str]) -> str:
        if fence[1] == "commands":
            return commands_to_markdown()
        return script_to_markdown((folder / fence[2]).read_text())

    return _FENCE.sub(part, text)


def scripts_of(text: str) -> list[str]:
    """Return the paths of the scripts that a page shows."""
    return [path for _, path in _FENCE.findall(text) if path]


def script_to_markdown(source: str) -> str:
    """Return a Python file in percent format as Markdown.

    A line `# %% [markdown]` begins text, which stands in comments. `# %%` begins code. The docstring of the file is
    for readers of the code and is left out.

    >>> print(script_to_markdown("# %% [markdown]\\n# # Sums\\n# Add.\\n# %%\\nprint(1 + 1)\\n"))
    # Sums
    Add.
    <BLANKLINE>
    ```python
    print(1 + 1)
    ```
    <BLANKLINE>
    """
    markers = list(_MARKER.finditer(source))
    begins = [(0, 0, ""), *((marker.start(), marker.end() + 1, marker[0]) for marker in markers)]
    ends = [start for start, _, _ in begins[1:]] + [len(source)]
    parts = []
    for (_, start, marker), end in zip(begins, ends, strict=True):
        cell = source[start:end].strip("\n")
        if "[markdown]" in marker:
            parts.append(re.sub(r"^# ?", "", cell, flags=re.MULTILINE) + "\n")
        elif code := cell if marker else _without_docstring(cell):
            parts.append(f"```python\n{code}\n```\n")
    return "\n".join(parts)


def _without_docstring(cell: str) -> str:
    body = ast.parse(cell).body
    first = body[0] if body else None
    if not isinstance(first, ast.Expr) or not isinstance(first.value, ast.Constant):
        return cell
    return "\n".join(cell.splitlines()[first.end_lineno :]).strip("\n")


class Entry(NamedTuple):
    """A command, argument or option in the output of `--help`.

    Attributes:
        name: how it is written, such as `--seeds N [N ...]`.
        meaning: what it does.
    """

    name: str
    meaning: str


class Help(NamedTuple):
    """The output of `--help` for one command.

    Attributes:
        usage: how the command is written.
        description: what it does.
        commands: its subcommands.
        arguments: its arguments and options.
    """

    usage: str
    description: str
    commands: list[Entry]
    arguments: list[Entry]


def help_of(*words: str) -> Help:
    """Return what `bert-lightning WORDS --help` prints, in parts.

    >>> help_of("doctor").usage
    'bert-lightning doctor [-h]'
    """
    usage = _printed_help(words, _NARROW).split("\n\n")[0]
    _, description, *sections = _printed_help(words, _WIDE).strip().split("\n\n")
    entries: dict[str, list[Entry]] = {"  ": [], "    ": []}
    for indentation, name, *meaning in _ENTRY.findall("\n".join(sections)):
        if any(meaning):
            entries[indentation].append(Entry(name, "".join(meaning)))
    usage = "\n".join(line[len("usage: ") :] for line in usage.splitlines())
    return Help(usage, description, entries["    "], entries["  "])


def commands_to_markdown() -> str:
    """Return the reference of all commands: a table, then a section for each."""
    commands = help_of().commands
    rows = [f"| [`{name}`](#{name}) | {_escaped(meaning)} |" for name, meaning in commands]
    sections = [_command_to_markdown(name) for name, _ in commands]
    return "\n".join(["| command | what it does |", "|---|---|", *rows, "", *sections])


def _command_to_markdown(*words: str) -> str:
    parts = help_of(*words)
    lines = [f"{'#' * (1 + len(words))} {' '.join(words)}\n", _escaped(parts.description) + "\n"]
    lines += [f"```text\n{parts.usage}\n```\n"]
    lines += [f"`{name}`\n: {_escaped(meaning)}\n" for name, meaning in parts.arguments if name != "-h, --help"]
    lines += [_command_to_markdown(*words, name) for name, _ in parts.commands]
    return "\n".join(lines)


def _printed_help(words: tuple[str, ...], columns: int) -> str:
    # Without NO_COLOR, Python 3.14 colours the help at a terminal.
    with (
        _environment(COLUMNS=str(columns), NO_COLOR="1"),
        redirect_stdout(StringIO()) as printed,
        suppress(SystemExit),
    ):
        _parser().parse_args([*words, "--help"])
    return printed.getvalue()


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    saved = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(saved)


def _escaped(text: str) -> str:
    """Return plain text as Markdown, with options as code."""
    parts = re.split(r"(?<!\S)(--[\w.-]*\w)", text)
    return "".join(f"`{part}`" if number % 2 else _plain(part) for number, part in enumerate(parts))


def _plain(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>#|~$])", r"\\\1", text)
