"""What the parsers of commands have in common."""

import argparse
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bert_lightning.errors import InputError


class Commands:
    """The commands of a program, each a parser of its own."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._parsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(self, name: str, run: Any, text: str, details: str = "", overrides: bool = False) -> Any:
        """The parser of a command.

        Args:
            name: of the command.
            run: takes the parsed options and gives the exit status.
            text: one line on what it does.
            details: what else its own help says.
            overrides: takes keys of the configuration, too.
        """
        sub = self._parsers.add_parser(
            name, help=text, description=f"{text[0].upper()}{text[1:]}. {details}", allow_abbrev=False
        )
        sub.set_defaults(run=run, parser=sub, takes_overrides=overrides)
        return sub


def path_text(text: str) -> str:
    """Read the name of a file or folder, in which a leading `~/` is the home folder.

    A shell does not replace it in `--output=~/a` or in quotes. An empty name would stand for the working directory.
    """
    if not text:
        raise argparse.ArgumentTypeError("the name is empty: is a variable of the shell not set?")
    return os.path.expanduser(text) if text == "~" or text.startswith("~/") else text


def path_argument(text: str) -> Path:
    """Read the path of a file or folder, as `path_text` does."""
    return Path(path_text(text))


def refuse_own_input(sources: Iterable[str], output: Path | None) -> None:
    """Refuse an output that would replace an input.

    Raises:
        InputError: both are the same file, perhaps under two names.
    """
    if output is None or not output.exists():
        return
    for source in sources:
        if os.path.isfile(source) and os.path.samefile(source, output):
            raise InputError(f"--output {output} is the file of --input, which it would replace: choose another name")


def whole_number(text: str) -> int:
    """A whole number of a size that counts things."""
    value = int(text)
    if abs(value) >= 1 << 31:
        raise argparse.ArgumentTypeError(f"{text} is too large")
    return value


def module_option(parser: argparse.ArgumentParser) -> None:
    """`--allow-module`, which says what a configuration may import."""
    parser.add_argument(
        "--allow-module",
        action="append",
        default=[],
        metavar="NAME",
        help="import this module, or package, where a class_path of the configuration names it; repeatable",
    )
