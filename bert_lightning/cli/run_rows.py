"""Output of the command `runs`: a row per run, failed runs with the last lines of their logs, and a live view."""

import os
import select
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bert_lightning.checkpoints.plain_text import printable
from bert_lightning.runs.log_file import last_lines
from bert_lightning.runs.status import RunStatus
from bert_lightning.studies.overview import Overview
from bert_lightning.wording import count, duration

if TYPE_CHECKING:
    from rich.console import Console, Group
    from rich.table import Table

HEADER = ("run", "state", "step", "speed", "left", "last scores", "seed", "arm", "changed")
# State -> its style in a terminal. The live view shows runs in this order of states.
_STYLES = {
    "running": "bold green",
    "failed": "bold red",
    "damaged": "bold red",
    "killed": "red",
    "unknown": "yellow",
    "interrupted": "yellow",
    "blocked": "yellow",
    "waiting": "dim",
    "pruned": "dim",
    "finished": "",
}
_MOST_SCORES = 3
# How many of the last lines of a log are printed.
LOG_LINES = 12
_SECONDS_BETWEEN = 2.0
# Lines of the live view besides the runs: heading, rules, and the counts below.
_OTHER_LINES = 7


def cells(run: RunStatus, now: float) -> list[str]:
    """Return the cells of a run, in the order of `HEADER`."""
    return [
        str(run.directory),
        run.state,
        _steps(run),
        _speed(run),
        "" if run.seconds_left is None else duration(run.seconds_left),
        ", ".join(f"{name.removeprefix('val/')} {value:.4g}" for name, value in _main_scores(run)),
        "" if run.seed is None else str(run.seed),
        ": ".join(filter(None, (run.stage, run.arm))),
        "" if run.updated is None else f"{duration(max(0.0, now - run.updated))} ago",
    ]


def _steps(run: RunStatus) -> str:
    if run.step is None:
        return ""
    return f"{run.step:,}" if run.num_steps is None else f"{run.step:,}/{run.num_steps:,}"


def _speed(run: RunStatus) -> str:
    if run.state != "running":
        return ""
    if run.tokens_per_second is not None:
        return f"{run.tokens_per_second:,.0f} tokens/s"
    return "" if run.steps_per_second is None else f"{run.steps_per_second:.3g} steps/s"


def _main_scores(run: RunStatus) -> list[tuple[str, float]]:
    """Return the first few scores, with losses last."""
    return sorted(run.scores.items(), key=lambda item: "loss" in item[0])[:_MOST_SCORES]


def totals(runs: Sequence[RunStatus]) -> str:
    """Return the number of runs in each state."""
    counts = Counter(str(run.state) for run in runs)
    return f"{count(len(runs), 'run')}: " + ", ".join(
        f"{counts[state]} {state}" for state in _STYLES if counts[state]
    )


def text_lines(runs: Sequence[RunStatus]) -> Iterator[str]:
    """Yield the rows as aligned lines, without columns that are empty for all runs."""
    rows = [[printable(cell) for cell in cells(run, time.time())] for run in runs]
    columns = [column for column in zip(HEADER, *rows, strict=True) if any(column[1:])]
    widths = [max(map(len, column)) for column in columns]
    for row in zip(*columns, strict=True):
        yield "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()


def table(runs: Sequence[RunStatus]) -> "Table":
    """Return the rows as a table for a terminal, without columns that are empty for all runs."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    rows = [[printable(cell) for cell in cells(run, time.time())] for run in runs]
    shown = [number for number in range(len(HEADER)) if any(row[number] for row in rows)]
    result = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number in shown:
        # The end of a path names the run, so it is not cut off.
        result.add_column(HEADER[number], overflow="fold", no_wrap=HEADER[number] in ("state", "step", "seed"))
    for run, row in zip(runs, rows, strict=True):
        result.add_row(*(Text(row[number], _STYLES[run.state] if number == 1 else "") for number in shown))
    return result


def failure_lines(run: RunStatus) -> Iterator[str]:
    """Yield the error of a failed run, and the last lines of its log."""
    seed = "" if run.seed is None else f", seed {run.seed}"
    at = "" if run.step is None else f" at step {run.step:,}"
    yield printable(f"{run.directory}: {run.state}{at}{seed}")
    yield printable(f"  {run.message}")
    if run.log is None:
        yield "  there is no log, because its output went to a terminal"
    elif not (lines := last_lines(run.log, LOG_LINES)):
        yield printable(f"  {run.log} is empty")
    else:
        yield printable(f"  the last lines of {run.log}:")
        yield from (printable(f"    {line}") for line in lines)


def as_json(run: RunStatus, with_log: bool = False) -> Mapping[str, object]:
    """Return a run as an object for JSON, with the last lines of its log if `with_log` is set."""
    values = asdict(run) | {"directory": str(run.directory), "log": None if run.log is None else str(run.log)}
    if with_log:
        values["log_lines"] = [] if run.log is None else last_lines(run.log, LOG_LINES)
    return values


# -- refreshing --------------------------------------------------------------------------------------------------


class _Change(NamedTuple):
    """The values of a run for which a change prints a new line."""

    state: str
    scores: tuple[tuple[str, float], ...]


def watched_lines(read: Callable[[], Overview], wait: Callable[[], bool]) -> Iterator[str]:
    """Yield a line whenever a run changes its state or is validated, until nothing more can change.

    Args:
        read: reads the runs.
        wait: waits until the next refresh; returns False to end the view.
    """
    known: dict[Path, _Change] = {}
    while True:
        found = read()
        for run in found.runs:
            change = _Change(run.state, tuple(run.scores.items()))
            if str(known.get(run.directory)) != str(change):
                known[run.directory] = change
                yield "  ".join(printable(cell) for cell in cells(run, time.time())[:-1] if cell)
        if found.is_over or not wait():
            break
    yield totals(found.runs)


def watch_in_terminal(console: "Console", read: Callable[[], Overview], wait: Callable[[], bool]) -> None:
    """Show a table that refreshes until `wait` returns False. Running and failed runs come first."""
    from rich.live import Live

    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            live.update(_view(read().runs, console.height), refresh=True)
            if not wait():
                break


def _view(runs: Sequence[RunStatus], height: int) -> "Group":
    from rich.console import Group
    from rich.text import Text

    order = list(_STYLES)
    ordered = sorted(runs, key=lambda run: (order.index(run.state), -(run.updated or 0.0)))
    shown = ordered[: max(1, height - _OTHER_LINES)]
    left = f", {len(runs) - len(shown)} of them not shown" if len(shown) < len(runs) else ""
    return Group(table(shown), Text(f"{totals(runs)}{left}", "bold"), Text("q ends this view", "dim"))


@contextmanager
def pressed_keys() -> Iterator[Callable[[], bool]]:
    """Read single keys from the terminal, without waiting for Enter, inside the context.

    Yields:
        A function that waits for two seconds and returns True, or returns False at once if q is pressed.
    """
    import termios
    import tty

    if not sys.stdin.isatty():
        yield _wait
        return
    number = sys.stdin.fileno()
    before = termios.tcgetattr(number)

    def wait() -> bool:
        end = time.monotonic() + _SECONDS_BETWEEN
        while (left := end - time.monotonic()) > 0 and select.select([number], [], [], left)[0]:
            keys = os.read(number, 1024)
            if not keys or b"q" in keys.lower():
                return False
        return True

    try:
        tty.setcbreak(number)
        yield wait
    finally:
        termios.tcsetattr(number, termios.TCSADRAIN, before)


def _wait() -> bool:
    time.sleep(_SECONDS_BETWEEN)
    return True
