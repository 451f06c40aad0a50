"""Output of the commands: progress bars, lines, metrics and JSON."""

import io
import math
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import IO, TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from rich.console import Console

T = TypeVar("T")
# The log of a long prediction stays short, but shows that the command is still running.
_SECONDS_BETWEEN_LINES = 60
# Back to the start of the line, which is then empty (ECMA-48).
_CLEAR = "\r\x1b[K"


class Counted(Protocol):
    """Function that passes items on and counts them, out of a total if it is known."""

    def __call__(self, items: Iterable[T], total: int | None = None) -> Iterator[T]: ...


def console() -> "Console":
    """Return a console on standard error."""
    from rich.console import Console

    return Console(stderr=True)


@contextmanager
def text_progress(sources: Sequence[str], text: str) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on standard error.

    Args:
        sources: files that are read. Their total size is the length of the bar, unless one is compressed.
        text: description beside the bar.

    Yields:
        A callback that receives the number of characters read since its last call.
    """
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    from bert_lightning.data.reading.lines import is_compressed

    has_total = all(os.path.isfile(source) and not is_compressed(source) for source in sources)
    total = sum(os.path.getsize(source) for source in sources) if has_total else None
    amount = "{task.percentage:.0f} %" if has_total else "{task.completed:,} characters"
    columns = (
        TextColumn(text),
        BarColumn(),
        TextColumn(amount),
        TimeRemainingColumn() if has_total else TimeElapsedColumn(),
    )
    with Progress(*columns, transient=True, disable=not sys.stderr.isatty(), console=console()) as progress:
        bar = progress.add_task("", total=total)
        yield lambda characters: progress.advance(bar, characters)


@contextmanager
def item_progress(text: str, enabled: bool, unit: str = "examples") -> Iterator[Counted]:
    """Show on standard error how many items are done: a bar on a terminal, otherwise a line per minute.

    Args:
        text: what is done.
        enabled: whether anything is shown.
        unit: the plural noun for the items.

    Yields:
        A function that passes items on and counts them.
    """
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn(text),
        BarColumn(),
        TextColumn(f"{{task.fields[amount]}} {unit}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    on_terminal = sys.stderr.isatty()
    with Progress(*columns, transient=True, disable=not (enabled and on_terminal), console=console()) as progress:
        bar = progress.add_task("", total=None, amount="0")

        def counted(items: Iterable[T], total: int | None = None) -> Iterator[T]:
            of_all = f" of {total:,}" if total is not None else ""
            progress.update(bar, total=total)
            began = last = monotonic()
            for number, item in enumerate(items, 1):
                yield item
                progress.update(bar, completed=number, amount=f"{number:,}{of_all}")
                now = monotonic()
                if enabled and not on_terminal and now - last >= _SECONDS_BETWEEN_LINES:
                    last = now
                    rate = number / (now - began)
                    left = f", {(total - number) / rate / 60:,.0f} min left" if total is not None else ""
                    print(f"{text}: {number:,}{of_all} {unit}, {rate:,.0f} per second{left}", file=sys.stderr)

        yield counted


class LiveLine:
    """Lines on standard output, and below them one line that says what happens now, if that is a terminal."""

    def __init__(self) -> None:
        self._shown = ""
        self._is_live = sys.stdout.isatty()
        # Lines come from several threads.
        self._printing = threading.Lock()

    def line(self, text: str) -> None:
        """Print a line that stays."""
        with self._printing:
            print(f"{_CLEAR if self._shown else ''}{text}", flush=True)
            self._show(self._shown)

    def status(self, text: str) -> None:
        """Replace the line that says what happens now."""
        with self._printing:
            if self._is_live and text != self._shown:
                print(_CLEAR, end="")
                self._show(text)

    def _show(self, text: str) -> None:
        self._shown = text
        width = shutil.get_terminal_size().columns - 1
        print(text if len(text) <= width else f"{text[: width - 1]}…", end="", flush=True)


@contextmanager
def live_line() -> Iterator[LiveLine]:
    """Yield a `LiveLine`, and remove its last line at the end."""
    line = LiveLine()
    try:
        yield line
    finally:
        line.status("")


def write_lines(lines: Iterable[str], output: Path | None) -> None:
    """Write all lines to a file atomically, or one by one to standard output."""
    from bert_lightning.checkpoints.files import write_atomically

    if output is not None:

        def write(file: IO[bytes]) -> None:
            for line in lines:
                file.write(line.encode())

        write_atomically(output, write)
        return
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")
    for line in lines:
        sys.stdout.write(line)
        sys.stdout.flush()


def print_metrics(metrics: dict[str, float]) -> None:
    """Print one line per metric, sorted by name."""
    if not metrics:
        return
    width = max(map(len, metrics))
    for name in sorted(metrics):
        print(f"  {name:<{width}}  {metrics[name]:.4f}")


def print_json(values: Mapping[str, object] | Sequence[Mapping[str, object]]) -> None:
    """Print an indented JSON object or a list of some. A number that is not finite becomes null."""
    print(_json_text(values))


def write_json(values: Mapping[str, object], output: Path) -> None:
    """Write an indented JSON object to a file atomically, as `print_json` prints it."""
    write_lines([_json_text(values), "\n"], output)


def _json_text(values: Mapping[str, object] | Sequence[Mapping[str, object]]) -> str:
    import json

    return json.dumps(_finite(values), indent=2)


def _finite(value: object) -> object:
    """Return values as JSON can hold them: NaN and infinity are no JSON."""
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
