"""Resolution of the files, folders, globs and hub names that a user gives to sources."""

import json
import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from bert_lightning.checkpoints.listing import files_below, matches
from bert_lightning.data.reading.hub import HUB, parse_hub_source
from bert_lightning.data.reading.lines import COMPRESSIONS, format_suffix
from bert_lightning.errors import InputError

log = logging.getLogger(__name__)
CORPUS_SUFFIXES = (".txt", ".jsonl", ".csv", ".parquet")
COMPRESSED_TOO = f" (or these with {', '.join(COMPRESSIONS)})"
_JSON_LINES = "JSON lines that end in .jsonl"
# Suffixes of tables in other forms -> the form to write instead.
_OTHER_TABLES = {
    **dict.fromkeys((".json", ".ndjson", ".jsonlines"), _JSON_LINES),
    **dict.fromkeys((".arrow", ".feather", ".orc", ".avro", ".pq"), "Parquet that ends in .parquet"),
    **dict.fromkeys((".xls", ".xlsx", ".ods"), "CSV that ends in .csv"),
    **dict.fromkeys((".pkl", ".pickle", ".npy", ".npz", ".db", ".sqlite"), _JSON_LINES),
}


def refuse_to_replace(source: str, output: str | Path) -> None:
    """Refuse an output that is the input file.

    Raises:
        InputError: both are the same file, even under two names.
    """
    if os.path.isfile(source) and os.path.exists(output) and os.path.samefile(source, output):
        raise InputError(f"{output} is also the input, which it would replace: choose another name")


def find_sources(inputs: Sequence[str], suffixes: Iterable[str], exclude: Sequence[str] = ()) -> list[str]:
    """Resolve files, folders (searched recursively), globs and `hub:` names to sources, in a fixed order.

    Files of a folder or glob are sorted by path. No file is read twice. Files that match a glob in `exclude` are left
    out. So are hidden files and other leftovers of programs (`is_leftover`), unless an input names the file itself.

    Raises:
        InputError: an input matches nothing or is a table in a form that is not read, or `exclude` leaves nothing.
    """
    suffixes = tuple(suffixes)
    for pattern in exclude:
        if not Path(pattern).parts:
            raise InputError(f"--exclude {pattern!r} names no file: a name, or a pattern such as '*.md', is expected")
    if "" in inputs:
        # An empty name would stand for the folder in which the command runs.
        raise InputError("the name of an input is empty: is a variable of the shell not set?")
    # The real path of a file -> its name as the user wrote it.
    names: dict[str, str] = {}
    for text in inputs:
        if text.startswith(HUB):
            parse_hub_source(text)
            names[text] = text
            continue
        for file in _files_of(text, suffixes):
            refuse_other_table(str(file))
            # Resolve links to folders, because `**` follows a circle of links forty times.
            names.setdefault(os.path.join(os.path.realpath(file.parent), file.name), _name_of(file))
    sources = [name for name in names.values() if not any(Path(name).match(pattern) for pattern in exclude)]
    if not sources:
        raise InputError(f"--exclude {' '.join(exclude)} leaves no input")
    return sources


def _files_of(text: str, suffixes: Sequence[str]) -> list[Path]:
    """Return the files that one input stands for: at least one."""
    try:
        path = Path(text).expanduser()
    except RuntimeError as error:
        raise InputError(f"{text}: {error}") from None
    if path.is_file():
        return [path]
    if path.is_dir():
        files = [file for file in files_below(path) if format_suffix(file) in suffixes]
        if not files:
            raise InputError(f"{text}: no file in this folder ends in {', '.join(suffixes)}{COMPRESSED_TOO}")
    else:
        files = [file for file in matches(path) if file.is_file()]
        if not files:
            raise InputError(f"{text}: no such file or folder, and no file matches it")
    return files


def _name_of(path: Path) -> str:
    name = str(path)
    try:
        name.encode()
    except UnicodeEncodeError:
        raise InputError(f"{name!r}: the name of this file is not UTF-8: rename it") from None
    return name


def refuse_other_table(source: str) -> None:
    """Refuse a table in a form that is not read. Otherwise each of its lines would be read as a text.

    Raises:
        InputError: the suffix is that of such a form; the message names the form to write instead.
    """
    suffix = format_suffix(source)
    if suffix in _OTHER_TABLES:
        raise InputError(f"{source}: {suffix} is not read as text; write it as {_OTHER_TABLES[suffix]}")


def warn_of_json_row(location: str, line: str) -> None:
    """Warn if the first line of a plain text is a JSON object: JSON lines under another suffix are read as text."""
    if not line.lstrip().startswith('{"'):
        return
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return
    log.warning("%s: this JSON object is read as text: JSON lines need a name that ends in .jsonl", location)
