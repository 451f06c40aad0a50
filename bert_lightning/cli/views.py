"""Commands that look at runs: `runs`."""

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from bert_lightning.cli.parsing import Commands, path_argument
from bert_lightning.cli.statuses import OK
from bert_lightning.errors import InputError, Interrupted

if TYPE_CHECKING:
    from bert_lightning.runs.status import RunStatus
    from bert_lightning.studies.overview import Overview

log = logging.getLogger(__name__)


def add(commands: Commands) -> None:
    """Add the commands of this file."""
    _add_runs(commands)


def _add_runs(commands: Commands) -> None:
    parser = commands.add(
        "runs",
        _runs,
        "show what runs do: state, step, speed, time left, last scores",
        "A run whose end is not recorded is `running` if a process trains there, and otherwise `killed`.",
    )
    parser.add_argument(
        "paths",
        nargs="*",
        type=path_argument,
        metavar="PATH",
        help="run directories, folders that hold some, or studies (default: runs/ and studies/)",
    )
    parser.add_argument(
        "--watch",
        action="store_true",
        help="refresh until q or Ctrl-C; without a terminal, print a line per change until all runs have ended",
    )
    parser.add_argument(
        "--failed", action="store_true", help="print error and last lines of the log of each run that failed"
    )
    parser.add_argument("--json", action="store_true", help="print a list of objects")


def _runs(options: argparse.Namespace) -> int:
    if options.watch and (options.failed or options.json):
        other = "--failed" if options.failed else "--json"
        raise InputError(f"--watch and {other} contradict each other: {other} prints once")
    from bert_lightning.cli.run_rows import as_json, failure_lines, log_lines
    from bert_lightning.studies.overview import DEFAULT_FOLDERS, Overview, overview

    def read() -> Overview:
        return overview(options.paths or [path for path in DEFAULT_FOLDERS if path.is_dir()])

    if options.watch:
        return _watch(read)
    found = read()
    for problem in found.problems:
        log.warning("%s", problem)
    runs = found.failed() if options.failed else found.runs
    if options.json:
        import json

        objects = [{**as_json(run), **({"log_lines": log_lines(run.log)} if options.failed else {})} for run in runs]
        print(json.dumps(objects, indent=2))
    elif options.failed and found.runs:
        for run in runs:
            print(*failure_lines(run), "", sep="\n")
        print(f"{len(runs)} of {len(found.runs)} failed")
    else:
        _print_rows(found.runs)
    return OK


def _print_rows(runs: "Sequence[RunStatus]") -> None:
    from bert_lightning.cli.console import Terminal
    from bert_lightning.cli.run_rows import table, text_lines, totals

    if not runs:
        print("no run is there")
    elif sys.stdout.isatty():
        Terminal().print(table(runs), totals(runs))
    else:
        print(*text_lines(runs), totals(runs), sep="\n")


def _watch(read: "Callable[[], Overview]") -> int:
    from bert_lightning.cli.console import Terminal
    from bert_lightning.cli.run_rows import pressed_keys, watch_in_terminal, watched_lines

    try:
        with pressed_keys() as wait:
            if sys.stdout.isatty():
                watch_in_terminal(Terminal(), read, wait)
            else:
                for line in watched_lines(read, wait):
                    print(line, flush=True)
    except Interrupted:
        # Ctrl-C is the usual way to end such a view.
        return OK
    return OK
