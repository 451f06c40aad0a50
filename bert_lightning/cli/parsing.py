"""Parsers of the commands, and the types and checks of their options."""

import argparse
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bert_lightning.checks import RefusedValue
from bert_lightning.errors import InputError


class Commands:
    """The commands of a program, each with its own parser."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._parsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(
        self,
        name: str,
        run: Callable[[argparse.Namespace], int] | None,
        text: str,
        details: str = "",
        overrides: bool = False,
    ) -> argparse.ArgumentParser:
        """Add a command and return its parser.

        Args:
            name: word on the command line.
            run: function of the parsed options that returns the exit status; None if each subcommand has its own.
            text: one line that describes the command.
            details: further sentences for the command's own help.
            overrides: whether the command also accepts keys of the configuration.
        """
        sub = self._parsers.add_parser(
            name, help=text, description=f"{text[0].upper()}{text[1:]}. {details}", allow_abbrev=False
        )
        sub.set_defaults(run=run, parser=sub, takes_overrides=overrides)
        return sub


def path_text(text: str) -> str:
    """Return the name of a file or folder, with a leading `~/` replaced by the home folder.

    The shell does not expand `~/` in `--output=~/a` and in quotes. An empty name is refused, because it would mean
    the working directory.

    Raises:
        argparse.ArgumentTypeError: the name is empty.

    >>> path_text("texts/a.txt")
    'texts/a.txt'
    """
    if not text:
        raise argparse.ArgumentTypeError("the name is empty: is a variable of the shell not set?")
    return os.path.expanduser(text) if text == "~" or text.startswith("~/") else text


def path_argument(text: str) -> Path:
    """Return the path of a file or folder (see `path_text`)."""
    return Path(path_text(text))


def refuse_own_input(sources: Iterable[str], output: Path | None) -> None:
    """Refuse an output that would replace an input.

    Raises:
        InputError: both are the same file, even under two names.
    """
    if output is None or not output.exists():
        return
    for source in sources:
        if os.path.isfile(source) and os.path.samefile(source, output):
            raise InputError(
                f"--output {output} is also an --input file, which it would replace: choose another name"
            )


def whole_number(text: str) -> int:
    """Return a whole number that fits into 32 bits.

    Raises:
        argparse.ArgumentTypeError: the text is not a whole number, or the number is too large.

    >>> whole_number("128")
    128
    >>> whole_number("1e3")
    Traceback (most recent call last):
    argparse.ArgumentTypeError: '1e3' is not a whole number
    """
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
    if abs(value) >= 1 << 31:
        raise argparse.ArgumentTypeError(f"{text} is too large; at most {(1 << 31) - 1} is allowed")
    return value


@contextmanager
def checked_options(**options: str) -> Iterator[None]:
    """Replace a `RefusedValue` by an error that names the option of the command line.

    Args:
        options: the options of fields that have another name there.

    Raises:
        InputError: a value is refused.

    >>> with checked_options():
    ...     raise RefusedValue("min_frequency", 0, "be at least 1")
    Traceback (most recent call last):
    bert_lightning.errors.InputError: --min-frequency is 0; it must be at least 1
    >>> with checked_options(num_points="points"):
    ...     raise RefusedValue("num_points", 0, "be at least 1")
    Traceback (most recent call last):
    bert_lightning.errors.InputError: --points is 0; it must be at least 1
    """
    try:
        yield
    except RefusedValue as error:
        name = options.get(error.name, error.name).replace("_", "-")
        raise InputError(f"--{name}{str(error).removeprefix(error.name)}") from None


def module_option(parser: argparse.ArgumentParser) -> None:
    """Add `--allow-module`, which names a module that a configuration or checkpoint may import."""
    parser.add_argument(
        "--allow-module",
        action="append",
        default=[],
        metavar="NAME",
        help="allow the import of your module or package for this configuration or checkpoint; repeatable",
    )


def base_option(parser: argparse.ArgumentParser) -> None:
    """Add `--base`, which names the base of a checkpoint that holds only what was trained."""
    parser.add_argument(
        "--base",
        type=path_text,
        metavar="CHECKPOINT",
        help="the pre-trained model that a tuned run started from, if it is no longer where it was",
    )


def input_option(parser: argparse.ArgumentParser, content: str = "lines of text, or a table") -> None:
    """Add `--input`, a file or standard input.

    Args:
        parser: the parser of the command.
        content: what the file holds.
    """
    parser.add_argument(
        "--input", type=path_text, default="-", metavar="FILE|-", help=f"{content} (default: standard input)"
    )


def precision_option(parser: argparse.ArgumentParser) -> None:
    """Add `--precision`, the precision of a computation without gradients."""
    parser.add_argument(
        "--precision",
        default="32",
        choices=("32", "bf16-mixed", "auto"),
        help="32 (default), bf16-mixed (bfloat16 products, as fit has them), or auto (the faster one on this device)",
    )


def text_column_option(parser: argparse.ArgumentParser) -> None:
    """Add `--text-column`, the column of a table that is read."""
    parser.add_argument(
        "--text-column", default="text", metavar="NAME", help="column of tables that holds the text (default: text)"
    )
