"""Commands about experiment files: `keys`."""

import argparse
import shutil
import sys

from bert_lightning.cli.parsing import Commands
from bert_lightning.cli.statuses import OK
from bert_lightning.errors import InputError

# Lines of this many characters are the longest that read well.
_LONGEST_LINE = 100


def add(commands: Commands) -> None:
    """Add the commands of this file."""
    _add_keys(commands)


def _add_keys(commands: Commands) -> None:
    parser = commands.add(
        "keys",
        _keys,
        "list the keys of an experiment",
        "Prints type, default and description of each key. For a single key it prints the whole description.",
    )
    parser.add_argument(
        "prefix",
        nargs="?",
        default="",
        metavar="PREFIX",
        help="list only keys that begin so, such as optimizer or trainer.precision",
    )
    parser.add_argument("--task", metavar="TASK", help="list only the keys of this task")
    forms = parser.add_mutually_exclusive_group()
    forms.add_argument("--json", action="store_true", help="print a list of objects")
    forms.add_argument("--markdown", action="store_true", help="print the page docs/configuration.md")


def _keys(options: argparse.Namespace) -> int:
    if options.markdown and (options.prefix or options.task):
        raise InputError("--markdown prints the whole page: leave out PREFIX and --task")
    import json

    from bert_lightning.cli.key_lists import json_values, markdown_page, text_lines
    from bert_lightning.config.keys import all_sections, matching

    sections = matching(all_sections(options.task), options.prefix)
    if options.markdown:
        print(markdown_page(sections), end="")
    elif options.json:
        print(json.dumps(json_values(sections), indent=2, ensure_ascii=False))
    else:
        width = min(shutil.get_terminal_size().columns, _LONGEST_LINE) if sys.stdout.isatty() else None
        print(*text_lines(sections, width), sep="\n")
    return OK
