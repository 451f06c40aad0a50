"""Rows of tables: TSV, CSV, JSONL and Parquet files, and hub data sets.

Every reader streams, and every error names the file and the line.
"""

import csv
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from bert_lightning.data.reading.class_names import with_class_names, written_features
from bert_lightning.data.reading.hub import HUB, read_hub
from bert_lightning.data.reading.json_values import parse_json_line
from bert_lightning.data.reading.lines import (
    MAX_ROW,
    DecodingErrors,
    Repairs,
    format_suffix,
    is_compressed,
    numbered_lines,
)
from bert_lightning.data.reading.sources import COMPRESSED_TOO
from bert_lightning.data.reading.values import as_text
from bert_lightning.errors import InputError

_AFTER_RETURN = re.compile(r"(?<=\r)(?!\n)(?!\Z)")
_PARQUET_BATCH = 1024


class Row(NamedTuple):
    """One row of a table, and its location as an error message names it."""

    location: str
    values: dict[str, object]


class Table(NamedTuple):
    """A table file and the way to read it: the arguments of `read_rows`."""

    source: str
    column_names: Sequence[str] | None = None
    errors: DecodingErrors = "strict"
    repairs: Repairs | None = None
    blank_rows: bool = False

    def lines(self) -> Iterator[tuple[int, str]]:
        """Read the numbered lines of a table that is text."""
        return numbered_lines(self.source, self.errors, self.repairs)

    def csv_lines(self) -> Iterator[str]:
        """Read the lines for Python's CSV reader, which joins the lines of a quoted field again."""
        for _, line in numbered_lines(self.source, self.errors, self.repairs, carriage_returns="allow"):
            # The reader keeps a line end inside a quoted field; any other one ends the row.
            yield from _AFTER_RETURN.split(line) if "\r" in line else (line,)


def is_table(source: str) -> bool:
    """Return whether a source has rows and columns. Any other source is plain text.

    >>> [is_table(source) for source in ("a.csv", "A.TSV.gz", "hub:nyu-mll/glue", "a.txt")]
    [True, True, True, False]
    """
    return source.startswith(HUB) or format_suffix(source) in TABLE_READERS


def read_rows(
    source: str,
    column_names: Sequence[str] | None = None,
    errors: DecodingErrors = "strict",
    repairs: Repairs | None = None,
    blank_rows: bool = False,
) -> Iterator[Row]:
    r"""Stream the rows of a TSV, CSV, JSONL or Parquet file, or of `hub:NAME[@REVISION][:CONFIG[:SPLIT]]`.

    In TSV, quotes are plain characters, as in the files of GLUE. In CSV, they enclose fields. Blank lines are
    skipped, but in a TSV file of one column a blank line is a row with an empty value.

    Args:
        source: the file or the name on the hub.
        column_names: the names of the columns of TSV and CSV. Without them the first line holds the names.
        errors: the treatment of bytes that are not UTF-8, as in `numbered_lines`.
        repairs: counts replaced bytes, as in `numbered_lines`.
        blank_rows: whether a row of several columns is read if all of them are blank. By default it is skipped.

    Raises:
        InputError: unknown format, a malformed line, undecodable bytes, or no data set of that name.

    >>> import tempfile
    >>> file = tempfile.NamedTemporaryFile("w", suffix=".csv")
    >>> _ = file.write("text,label\na boat,news\n"); file.flush()
    >>> [row.values for row in read_rows(file.name)]
    [{'text': 'a boat', 'label': 'news'}]
    """
    if source.startswith(HUB):
        for number, values in enumerate(read_hub(source), 1):
            yield Row(f"{source}: row {number}", values)
        return
    reader = TABLE_READERS.get(format_suffix(source))
    if reader is None:
        raise InputError(f"{source}: expected a file that ends in {', '.join(TABLE_READERS)}{COMPRESSED_TOO}")
    if not Path(source).is_file():
        raise InputError(f"{source}: no such file")
    yield from reader(Table(source, column_names, errors, repairs, blank_rows))


def column(row: Row, name: str) -> str:
    """Return the value of one column as text.

    Raises:
        InputError: the row has no such column (the message names its columns), no value there, or no proper text.

    >>> column(Row("a.csv: line 2", {"label": 3}), "label")
    '3'
    """
    if name not in row.values:
        raise no_column(row, name)
    return as_text(row.location, f"the column {name!r}", row.values[name])


def no_column(row: Row, name: str | int) -> InputError:
    """Build the error for a column that a row does not have."""
    return InputError(
        f"{row.location}: there is no column {name!r}; the columns are: {', '.join(map(str, row.values))}"
    )


def json_row(location: str, line: str) -> Row:
    """Parse a line that holds one JSON object as a row.

    Raises:
        InputError: the line is not a JSON object.
    """
    return Row(location, parse_json_line(location, line))


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
            # A blank line is neither a row nor a header.
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
            reference = "the list of column names" if table.column_names else "the first line"
            raise wrong_columns(f"{source}: line {number}", len(fields), len(header), reference)


def wrong_columns(location: str, count: int, expected: int, reference: str = "the first line") -> InputError:
    """Build the error for a line with another number of columns than the `reference` has."""
    return InputError(f"{location}: this line has {count} columns, but {reference} has {expected}")


def _repeats(fields: Sequence[str], header: Sequence[str]) -> bool:
    """Return whether a row holds the names of the columns. Case, quotes and a byte-order mark are ignored.

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
    # A carriage return inside a JSON text is a character. Outside of a text it is blank space.
    lines = numbered_lines(table.source, table.errors, table.repairs, carriage_returns="allow")
    for number, line in lines:
        if line.strip():
            yield json_row(f"{table.source}: line {number}", line)


def _parquet_rows(table: Table) -> Iterator[Row]:
    import pyarrow
    from pyarrow import parquet

    source = table.source
    if is_compressed(source):
        raise InputError(f"{source}: Parquet is compressed inside and read from its end: unpack it first")
    try:
        file = parquet.ParquetFile(source)
        _refuse_doubled(source, file.schema_arrow.names)
        features = written_features(file.schema_arrow.metadata)
        number = 0
        for batch in file.iter_batches(batch_size=_PARQUET_BATCH):
            for values in batch.to_pylist():
                number += 1
                yield Row(f"{source}: row {number}", with_class_names(values, features))
    except InputError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{source}: not readable as Parquet: {error}") from None


TABLE_READERS: dict[str, Callable[[Table], Iterator[Row]]] = {
    ".tsv": _tsv_rows,
    ".csv": _csv_rows,
    ".jsonl": _jsonl_rows,
    ".parquet": _parquet_rows,
}
