"""Readers: files, folders, globs and hub data sets -> rows; which files an input stands for.

Every reader streams, and every error names the file and the line.
"""

import csv
import json
import logging
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal
from numbers import Integral, Real
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bert_lightning.checkpoints.listing import files_below, matches
from bert_lightning.data.reading.lines import (
    COMPRESSIONS,
    MAX_ROW,
    DecodingErrors,
    Repairs,
    format_suffix,
    is_compressed,
    numbered_lines,
)
from bert_lightning.errors import InputError

log = logging.getLogger(__name__)
HUB = "hub:"
_AFTER_RETURN = re.compile(r"(?<=\r)(?!\n)(?!\Z)")
_JSON_LINES = "JSON lines that end in .jsonl"
# Suffixes of tables in other forms, and the form to write instead.
_OTHER_TABLES = {
    **dict.fromkeys((".json", ".ndjson", ".jsonlines"), _JSON_LINES),
    **dict.fromkeys((".arrow", ".feather", ".orc", ".avro", ".pq"), "Parquet that ends in .parquet"),
    **dict.fromkeys((".xls", ".xlsx", ".ods"), "CSV that ends in .csv"),
    **dict.fromkeys((".pkl", ".pickle", ".npy", ".npz", ".db", ".sqlite"), _JSON_LINES),
}
_COMPRESSED = f" (or these with {', '.join(COMPRESSIONS)})"


class Row(NamedTuple):
    """One row of a table and where it stands, as an error message names it."""

    location: str
    values: dict[str, Any]


def find_sources(inputs: Sequence[str], suffixes: Iterable[str], exclude: Sequence[str] = ()) -> list[str]:
    """Resolve files, folders (searched recursively), globs and `hub:` names to sources, in a fixed order.

    Files of a folder or glob are sorted by path, those that match a glob in `exclude` are left out, and none is
    taken twice. Hidden files and other files that programs leave behind (`is_left_behind`) are left out too. A file
    that is named itself is always taken.

    Raises:
        InputError: an input matches nothing or is a table in a form that is not read, or `exclude` leaves nothing.
    """
    suffixes = tuple(suffixes)
    # What a source is -> how it is named.
    found: dict[str, str] = {}
    if "" in exclude:
        raise InputError("--exclude has an empty pattern")
    if "" in inputs:
        # It would stand for the folder in which the command runs.
        raise InputError("the name of an input is empty: is a variable of the shell not set?")
    for text in inputs:
        if text.startswith(HUB):
            _hub_parts(text)
            found[text] = text
            continue
        try:
            path = Path(text).expanduser()
        except RuntimeError as error:
            raise InputError(f"{text}: {error}") from None
        if path.is_file():
            found_here = [path]
        elif path.is_dir():
            found_here = [file for file in files_below(path) if format_suffix(file) in suffixes]
            if not found_here:
                raise InputError(f"{text}: no file in this folder ends in {', '.join(suffixes)}{_COMPRESSED}")
        else:
            found_here = [file for file in matches(path) if file.is_file()]
            if not found_here:
                raise InputError(f"{text}: no such file or folder, and no file matches it")
        for match in found_here:
            refuse_other_table(str(match))
            # A link to a folder is the folder; `**` would go round a circle of links forty times.
            found.setdefault(os.path.join(os.path.realpath(match.parent), match.name), _name_of(match))
    sources = [source for source in found.values() if not any(Path(source).match(pattern) for pattern in exclude)]
    if not sources:
        raise InputError(f"--exclude {' '.join(exclude)} leaves no input")
    return sources


def _name_of(path: Path) -> str:
    name = str(path)
    try:
        name.encode()
    except UnicodeEncodeError:
        raise InputError(f"{name!r}: the name of this file is not UTF-8: rename it") from None
    return name


def is_table(source: str) -> bool:
    """Whether a source has rows and columns; anything else is plain text."""
    return source.startswith(HUB) or format_suffix(source) in TABLE_READERS


def refuse_other_table(source: str) -> None:
    """Refuse a table in a form that is not read: each of its lines would otherwise pass for a text.

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


class Table(NamedTuple):
    """A table to be read, and how."""

    source: str
    column_names: Sequence[str] | None = None
    errors: DecodingErrors = "strict"
    repairs: Repairs | None = None
    blank_rows: bool = False

    def lines(self) -> Iterator[tuple[int, str]]:
        """Its numbered lines, where it is text."""
        return numbered_lines(self.source, self.errors, self.repairs)

    def csv_lines(self) -> Iterator[str]:
        """Read its lines for Python's reader of CSV, which joins quoted fields of several lines again."""
        for _, line in numbered_lines(self.source, self.errors, self.repairs, carriage_returns="allow"):
            # The reader keeps a line end inside a quoted field; any other one ends the row.
            yield from _AFTER_RETURN.split(line) if "\r" in line else (line,)


def read_rows(
    source: str,
    column_names: Sequence[str] | None = None,
    errors: DecodingErrors = "strict",
    repairs: Repairs | None = None,
    blank_rows: bool = False,
) -> Iterator[Row]:
    """Stream the rows of a TSV, CSV, JSONL or Parquet file, or of `hub:NAME[@REVISION][:CONFIG[:SPLIT]]`.

    TSV is read without quote handling, as GLUE is published; CSV with it. The first line of both names the
    columns, unless `column_names` does. `errors` and `repairs` are those of `numbered_lines`. Blank lines of a
    TSV or CSV file are skipped, and so are rows of several columns that are all blank, unless `blank_rows`.

    Raises:
        InputError: unknown format, a malformed line, undecodable bytes, or no data set of that name.
    """
    if source.startswith(HUB):
        yield from _hub_rows(source)
        return
    reader = TABLE_READERS.get(format_suffix(source))
    if reader is None:
        raise InputError(f"{source}: expected a file that ends in {', '.join(TABLE_READERS)}{_COMPRESSED}")
    if not Path(source).is_file():
        raise InputError(f"{source}: no such file")
    yield from reader(Table(source, column_names, errors, repairs, blank_rows))


def column(row: Row, name: str) -> str:
    """The value of one column as text.

    Raises:
        InputError: the row has no such column (the message names those it has), no value, or no proper text.
    """
    if name not in row.values:
        raise InputError(f"{row.location}: no column {name!r}; the columns are: {', '.join(map(str, row.values))}")
    return as_text(row.location, f"the column {name!r}", row.values[name])


def as_text(location: str, what: str, value: Any) -> str:
    """Convert a value into text. All readers of tables and of raw input use this function.

    Text stays unchanged. A finite number (also `Decimal` and numpy's) and a truth value become what Python prints:
    `7`, `0.5`, `True`. Everything else is refused: null, NaN and infinities, which stand for missing values; dates;
    bytes; lists, objects and arrays.

    Args:
        location: the location of the value, for messages.
        what: the name of the value in messages.
        value: of any type.

    Raises:
        InputError: the value is none of these, or holds half a character (a lone surrogate).
    """
    if isinstance(value, str):
        if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
            raise InputError(f"{location}: {what} holds half a character (a lone surrogate)")
        return value
    if value is None:
        raise InputError(f"{location}: {what} is null")
    # numpy's truth value is neither a bool nor an Integral. NaT (a date) and pandas' NA are no numbers, so they fail.
    if isinstance(value, bool | np.bool_ | Integral):
        return str(value)
    if isinstance(value, Real | Decimal):
        if not math.isfinite(value):
            raise InputError(
                f"{location}: {what} is {float(value)}, which stands for a missing value: leave the row out"
            )
        return str(value)
    raise InputError(f"{location}: {what} holds a {type(value).__name__}, not text or a number")


def is_hidden(value: Any, minus_one: bool = True) -> bool:
    """Return whether a field holds no label: null, NaN, an empty or blank text, -1, or a list of only these.

    Test files hide their labels in one of these ways; hub data sets use -1.

    Args:
        value: of any type.
        minus_one: whether -1 means no label. Pass False where -1 may be a label.
    """
    if isinstance(value, list | tuple):
        return all(is_hidden(item, minus_one) for item in value)
    if isinstance(value, str):
        return not value.strip() or (minus_one and value.strip() in ("-1", "-1.0"))
    if isinstance(value, Real | Decimal):
        return math.isnan(value) or (minus_one and value == -1)
    return value is None


def _tsv_rows(table: Table) -> Iterator[Row]:
    yield from _delimited(table, ((n, line.rstrip("\r\n").split("\t")) for n, line in table.lines()))


def _csv_rows(table: Table) -> Iterator[Row]:
    csv.field_size_limit(MAX_ROW)
    reader = csv.reader(table.csv_lines(), strict=True)
    try:
        yield from _delimited(table, ((reader.line_num, fields) for fields in reader))
    except csv.Error as error:
        raise InputError(f"{table.source}: line {reader.line_num}: {error}") from None


def _delimited(table: Table, lines: Iterable[tuple[int, list[str]]]) -> Iterator[Row]:
    source = table.source
    header = list(table.column_names) if table.column_names else None
    _refuse_doubled(source, header or ())
    for number, fields in lines:
        if header is None:
            # A blank line is no row, and names no columns either.
            if fields and (len(fields) > 1 or fields[0]):
                header = fields
                _refuse_doubled(f"{source}: line {number}", header)
        elif len(header) > 1 and _repeats(fields, header):
            raise InputError(
                f"{source}: line {number}: this row repeats the names of the columns: files were joined, or "
                "column_names is set for a file that has a header"
            )
        elif len(fields) == len(header):
            if table.blank_rows or len(header) == 1 or any(field.strip() for field in fields):
                yield Row(f"{source}: line {number}", dict(zip(header, fields, strict=True)))
        elif any(field.strip() for field in fields):
            raise InputError(f"{source}: line {number}: {len(fields)} columns, but the first line has {len(header)}")


def _repeats(fields: Sequence[str], header: Sequence[str]) -> bool:
    """Return whether a row holds the names of the columns: in any case, in quotes or after a byte-order mark.

    Files that were joined may differ in these, and only the first line of a file loses its mark.
    """
    return len(fields) == len(header) and all(
        _plain_name(field) == _plain_name(name) for field, name in zip(fields, header, strict=True)
    )


def _plain_name(name: str) -> str:
    return name.strip(' \t\ufeff"').lower()


def _refuse_doubled(location: str, names: Iterable[str]) -> None:
    """Refuse two columns with one name, since only one could be read. Several columns may have no name."""
    for name, count in Counter(names).items():
        if count > 1 and name.strip():
            raise InputError(f"{location}: {count} columns are called {name!r}; every column needs its own name")


def _jsonl_rows(table: Table) -> Iterator[Row]:
    # A separator inside a text of JSON is a character, and one outside is no JSON.
    lines = numbered_lines(table.source, table.errors, table.repairs, carriage_returns="allow")
    for number, line in lines:
        if line.strip():
            yield json_row(f"{table.source}: line {number}", line)


def json_row(location: str, line: str) -> Row:
    """A JSON object on one line as a row.

    Raises:
        InputError: it is none.
    """
    # Without the end of the line: after it, Python counts a second one.
    values = _parse_json(location, line.rstrip(), is_row=True)
    if not isinstance(values, dict):
        raise InputError(f"{location}: a JSON object is expected, not {type(values).__name__}")
    return Row(location, values)


def read_json(source: str) -> Any:
    """The JSON value that a whole file holds, of any size and on any number of lines.

    Raises:
        InputError: unreadable, or not JSON: the message names the line.
    """
    text = "".join(piece for _, piece in numbered_lines(source, cut=True, carriage_returns="allow"))
    return _parse_json(source, text, is_row=False)


def _parse_json(location: str, text: str, *, is_row: bool) -> Any:
    """Parse a whole file, or a row whose `location` already names its line."""
    try:
        return _JSON.decode(text)
    except InputError as error:
        raise InputError(f"{location}: {error}") from None
    except json.JSONDecodeError as error:
        line = "" if is_row else f"line {error.lineno}: "
        raise InputError(f"{location}: {line}not JSON: {error.msg}, column {error.colno}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{location}: not JSON: {error}") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a JSON object, and refuse a repeated key: Python's reader would silently keep its last value."""
    values = dict(pairs)
    if len(values) < len(pairs):
        name = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise InputError(f"the key {name!r} occurs twice in one JSON object")
    return values


_JSON = json.JSONDecoder(object_pairs_hook=_object)


def _parquet_rows(table: Table) -> Iterator[Row]:
    import pyarrow
    from pyarrow import parquet

    source = table.source
    if is_compressed(source):
        raise InputError(f"{source}: Parquet is compressed inside and read from its end: unpack it first")
    try:
        file = parquet.ParquetFile(source)
        _refuse_doubled(source, file.schema_arrow.names)
        features = _written_features(file.schema_arrow.metadata)
        number = 0
        for batch in file.iter_batches(batch_size=1024):
            for values in batch.to_pylist():
                number += 1
                yield Row(f"{source}: row {number}", _with_names(values, features))
    except InputError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{source}: not readable as Parquet: {error}") from None


def _written_features(metadata: dict[bytes, bytes] | None) -> dict[str, Any]:
    """The features that `datasets` wrote beside the columns of a Parquet file; none of another's."""
    written = (metadata or {}).get(b"huggingface")
    if written is None:
        return {}
    import datasets

    try:
        return dict(datasets.Features.from_dict(json.loads(written)["info"]["features"]))
    except (ValueError, KeyError, TypeError):
        return {}


def hub_revision(source: str) -> str | None:
    """The commit that a hub source is read at; None for a folder, or where the hub does not say."""
    import huggingface_hub

    name, revision, _, _ = _hub_parts(source)
    if Path(name).exists():
        return None
    try:
        sha: str | None = huggingface_hub.HfApi().dataset_info(name, revision=revision, timeout=10).sha
    except Exception:
        return revision
    return sha


def _hub_parts(source: str) -> tuple[str, str | None, str | None, str]:
    """Take `hub:NAME[@REVISION][:CONFIG[:SPLIT]]` apart: name, revision, configuration, split.

    Raises:
        InputError: there is no name.
    """
    name, *rest = source.removeprefix(HUB).split(":")
    name, _, revision = name.partition("@")
    if not name:
        raise InputError(f"{source} names no data set; hub:NAME[@REVISION][:CONFIG[:SPLIT]] is expected")
    return name, revision or None, rest[0] if rest and rest[0] else None, rest[1] if len(rest) > 1 else "train"


def _hub_rows(source: str) -> Iterator[Row]:
    import datasets

    name, revision, config, split = _hub_parts(source)
    # Whatever goes wrong here (no network, no such name, a refused script) is an input that cannot be had.
    try:
        rows = datasets.load_dataset(name, config, split=split, revision=revision, streaming=True)
        features = dict(rows.features or {})
        for number, values in enumerate(rows, 1):
            yield Row(f"{source}: row {number}", _with_names(values, features))
    except InputError:
        raise
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{source}: the data set cannot be loaded: {reason}") from None


def _with_names(values: dict[str, Any], features: dict[str, Any]) -> dict[str, Any]:
    """A row in which a class is its name, not its number in the features; -1, no class, is None."""
    return {name: _named(value, features.get(name)) for name, value in values.items()}


def _named(value: Any, feature: Any) -> Any:
    if value is None or feature is None:
        return value
    if hasattr(feature, "int2str"):
        # What a loader already turned into a name stays.
        return value if isinstance(value, str) else None if value == -1 else feature.int2str(value)
    if isinstance(value, dict) and isinstance(feature, dict):
        return {key: _named(part, feature.get(key)) for key, part in value.items()}
    if isinstance(value, list):
        item = feature[0] if isinstance(feature, list) else getattr(feature, "feature", None)
        # The texts of a list need no look; a list may be as long as a document.
        return value if getattr(item, "dtype", None) == "string" else [_named(part, item) for part in value]
    return value


TABLE_READERS: dict[str, Callable[[Table], Iterator[Row]]] = {
    ".tsv": _tsv_rows,
    ".csv": _csv_rows,
    ".jsonl": _jsonl_rows,
    ".parquet": _parquet_rows,
}
CORPUS_SUFFIXES = (".txt", ".jsonl", ".csv", ".parquet")
