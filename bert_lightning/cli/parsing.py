"""What the parsers of commands have in common."""

import argparse
from typing import Any


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
