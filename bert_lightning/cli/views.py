"""The commands that read runs: `runs`, `compare`, `power`."""

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from bert_lightning.checkpoints.plain_text import printable
from bert_lightning.cli.parsing import Commands, path_argument
from bert_lightning.cli.statuses import OK
from bert_lightning.cli.terminal import print_json
from bert_lightning.errors import InputError, Interrupted
from bert_lightning.lazy import without_collections

if TYPE_CHECKING:
    from bert_lightning.runs.status import RunStatus
    from bert_lightning.studies.overview import Overview

log = logging.getLogger(__name__)


def add(commands: Commands) -> None:
    """Add the commands of this file."""
    _add_runs(commands)
    _add_compare(commands)
    _add_power(commands)


def _add_runs(commands: Commands) -> None:
    parser = commands.add(
        "runs",
        _runs,
        "list runs with state, step, speed, time left and last scores",
        "A run whose end is not recorded is `running` if a process holds its lock, and otherwise `killed`.",
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
        "--failed", action="store_true", help="print the error and the last log lines of each run that failed"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON list with an object per run")


def _add_compare(commands: Commands) -> None:
    parser = commands.add(
        "compare",
        _compare,
        "list the differences between two runs, or two arms with several seeds",
        "A and B are run directories, folders with the runs of several seeds, or arms of a study: STUDY/ARM, or "
        "STUDY/STAGE/ARM. Differences of scores are B minus A. Two single runs are tested over the examples of their "
        "predictions, arms with several seeds over the seeds.",
    )
    parser.add_argument("a", type=path_argument, metavar="A", help="the baseline")
    parser.add_argument("b", type=path_argument, metavar="B", help="the run or arm that is compared with it")
    parser.add_argument(
        "--level", type=float, default=0.95, metavar="X", help="confidence level of intervals (default: 0.95)"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object, in which nothing is shortened")


def _add_power(commands: Commands) -> None:
    parser = commands.add(
        "power",
        _power,
        "compute how many seeds are needed to find a difference, from your finished runs",
        "Runs that differ only in their seed form one arm. Arms with the same seeds are compared in pairs of runs.",
    )
    parser.add_argument(
        "paths",
        nargs="+",
        type=path_argument,
        metavar="PATH",
        help="run directories, folders that hold some, or studies",
    )
    parser.add_argument(
        "--difference", type=float, required=True, metavar="X", help="the difference to find, in units of the score"
    )
    parser.add_argument(
        "--metric", metavar="NAME", help="the score, such as val/accuracy (default: that of the study, or the first)"
    )
    parser.add_argument(
        "--power",
        type=float,
        default=0.8,
        metavar="P",
        help="probability with which the test should find it (default: 0.8)",
    )
    parser.add_argument(
        "--level", type=float, default=0.05, metavar="ALPHA", help="level of the two-sided t test (default: 0.05)"
    )
    parser.add_argument(
        "--baseline", metavar="ARM", help="the arm to compare with (default: that of the study, or the first)"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object")


def _runs(options: argparse.Namespace) -> int:
    if options.watch and (options.failed or options.json):
        other = "--failed" if options.failed else "--json"
        raise InputError(f"--watch and {other} contradict each other: {other} prints once")
    from bert_lightning.cli.run_rows import as_json, failure_lines
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
        print_json([as_json(run, with_log=options.failed) for run in runs])
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
        print("there are no runs")
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
        # Ctrl-C is a usual way to end this view.
        return OK
    return OK


def _compare(options: argparse.Namespace) -> int:
    with without_collections(freeze=True):
        from bert_lightning.cli.difference_lines import difference_lines
        from bert_lightning.studies.side_differences import as_json, side_differences
        from bert_lightning.studies.sides import side_of

    if not 0.5 < options.level < 1:
        raise InputError(f"--level is {options.level}; it must be more than 0.5 and less than 1, such as 0.95")
    found = side_differences(side_of(options.a), side_of(options.b), options.level)
    if options.json:
        print_json(as_json(found))
    else:
        for line in difference_lines(found):
            print(printable(line))
    return OK


def _power(options: argparse.Namespace) -> int:
    with without_collections(freeze=True):
        from bert_lightning.cli.power_lines import power_lines
        from bert_lightning.studies.seed_power import seeds_for_difference

    found = seeds_for_difference(
        options.paths, options.difference, options.metric, options.power, options.level, options.baseline
    )
    if options.json:
        print_json(asdict(found))
    else:
        for line in power_lines(found):
            print(printable(line))
    return OK
