"""What commands show and write."""

import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def console() -> Any:
    """Of the standard error."""
    from rich.console import Console

    return Console(stderr=True)


@contextmanager
def text_progress(sources: Sequence[str], text: str) -> Iterator[Callable[[int], None]]:
    """A bar that is told the characters done; without an end where the sources do not say how many there are."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    from bert_lightning.data.reading.lines import is_compressed

    plain = all(os.path.isfile(source) and not is_compressed(source) for source in sources)
    total = sum(os.path.getsize(source) for source in sources) if plain else None
    amount = "{task.percentage:.0f} %" if plain else "{task.completed:,} characters"
    columns = (
        TextColumn(text),
        BarColumn(),
        TextColumn(amount),
        TimeRemainingColumn() if plain else TimeElapsedColumn(),
    )
    with Progress(*columns, transient=True, disable=not sys.stderr.isatty(), console=console()) as progress:
        bar = progress.add_task("", total=total)
        yield lambda characters: progress.advance(bar, characters)


@contextmanager
def row_progress(text: str, enabled: bool) -> Iterator[Callable[[Iterable[Any]], Iterator[Any]]]:
    """A count of the rows that went through, in a terminal."""
    from rich.progress import Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn(text), TextColumn("{task.completed:,} rows"), TimeElapsedColumn())
    shown = enabled and sys.stderr.isatty()
    with Progress(*columns, transient=True, disable=not shown, console=console()) as progress:
        bar = progress.add_task("", total=None)

        def advance(rows: Iterable[Any]) -> Iterator[Any]:
            for row in rows:
                yield row
                progress.advance(bar)

        yield advance


def write_lines(lines: Iterable[str], output: Path | None) -> None:
    """To a file, complete or not at all, or to standard output as they come."""
    from bert_lightning.checkpoints.files import write_atomically

    if output is not None:

        def write(file: Any) -> None:
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
    """A line each, in order of names."""
    if not metrics:
        return
    width = max(map(len, metrics))
    for name in sorted(metrics):
        print(f"  {name:<{width}}  {metrics[name]:.4f}")


def print_json(values: Mapping[str, object]) -> None:
    """On lines of their own."""
    import json

    print(json.dumps(values, indent=2))
