"""Readers: files, folders, globs and hub data sets -> documents (for pre-training) or rows (for fine-tuning).

Every reader streams, and every error names the file and the line (or byte).
"""

import csv
import glob
import gzip
import json
import re
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple, cast

from bert_lightning.errors import InputError
from bert_lightning.text.sentences import split_sentences

Layout = Literal["auto", "sentences", "paragraphs"]
HUB = "hub:"
STANDARD_INPUT = "-"
_COMPRESSED = ".gz"
# A whole book may stand in one field.
_MAX_FIELD = 1 << 30


class Document(NamedTuple):
    """One document of a corpus, in order: sentences, or paragraphs that are still to be split."""

    segments: list[str]
    split: bool
    """True when the segments are paragraphs."""


class Row(NamedTuple):
    """One row of a table and where it stands, as an error message names it."""

    place: str
    values: dict[str, Any]


def find_sources(inputs: Sequence[str], suffixes: Iterable[str], exclude: Sequence[str] = ()) -> list[str]:
    """Resolve files, folders (searched recursively), globs and `hub:` names to sources, in a fixed order.

    Files of a folder or glob are sorted by path, those that match a glob in `exclude` are left out, and none is
    taken twice. A file named outright is taken whatever its suffix.

    Raises:
        InputError: an input matches nothing, or `exclude` leaves nothing.
    """
    suffixes = tuple(suffixes)
    found: dict[str, None] = {}
    for text in inputs:
        if text.startswith(HUB):
            found[text] = None
            continue
        path = Path(text).expanduser()
        if path.is_file():
            matches = [path]
        elif path.is_dir():
            matches = sorted(p for p in path.rglob("*") if p.is_file() and _suffix(p) in suffixes)
            if not matches:
                raise InputError(f"{text}: no file in this folder ends in {', '.join(suffixes)} (or these with .gz)")
        else:
            matches = sorted(Path(p) for p in glob.glob(str(path), recursive=True) if Path(p).is_file())
            if not matches:
                raise InputError(f"{text}: no such file or folder, and no file matches it")
        found.update((str(match), None) for match in matches)
    sources = [source for source in found if not any(Path(source).match(pattern) for pattern in exclude)]
    if not sources:
        raise InputError(f"--exclude {' '.join(exclude)} leaves no input")
    return sources


# -- documents ---------------------------------------------------------------------------------------------------


def read_documents(source: str, layout: Layout, text_column: str) -> Iterator[Document]:
    """Stream the documents of one source.

    Plain text is read in `layout`; in a table or hub data set each value of `text_column` is a document.
    """
    if is_table(source):
        for row in read_rows(source):
            text = column(row, text_column)
            yield Document([line for line in text.splitlines() if line.strip()], split=True)
    elif (detect_layout(source) if layout == "auto" else layout) == "sentences":
        yield from _documents_of_sentences(source)
    else:
        yield Document(list(_paragraphs(source)), split=True)


def is_table(source: str) -> bool:
    """Whether a source has rows and columns; anything else is plain text."""
    return source.startswith(HUB) or _suffix(Path(source)) in TABLE_READERS


def detect_layout(source: str) -> Literal["sentences", "paragraphs"]:
    """Decide from the first thousand lines of text how a plain text file is laid out.

    In the original format a line is a sentence: most lines end as sentences do and hold just one, and a document
    (up to a blank line) has several. In running text a line is a whole paragraph, or wrapped and ends anywhere.
    """
    ended = single = lines = blocks = 0
    in_block = False
    for _, line in islice(_lines(source), 2000):
        text = line.strip()
        if text:
            lines += 1
            blocks += not in_block
            ended += bool(_SENTENCE_END.search(text))
            single += len(split_sentences(text)) == 1
        in_block = bool(text)
        if lines == 1000:
            break
    several_a_block = lines >= 2 * max(blocks, 1)
    one_a_line = ended >= 0.7 * lines and single >= 0.8 * lines
    return "sentences" if several_a_block and one_a_line else "paragraphs"


_SENTENCE_END = re.compile(r"[.!?…。！？।؟:;][\"'”’»)\]]*$")


def _documents_of_sentences(source: str) -> Iterator[Document]:
    sentences: list[str] = []
    for _, line in _lines(source):
        text = line.strip()
        if text:
            sentences.append(text)
        elif sentences:
            yield Document(sentences, split=False)
            sentences = []
    if sentences:
        yield Document(sentences, split=False)


def _paragraphs(source: str) -> Iterator[str]:
    """Blocks between blank lines, each joined to one line.

    Where a file has no blank lines to speak of, every line is a paragraph, unless lines are hard-wrapped: then a
    paragraph starts at an indented line.
    """
    block: list[str] = []
    wrapped, indented = _is_hard_wrapped(source)
    for _, line in _lines(source):
        text = line.strip()
        starts = not text or not wrapped or (indented and line[:1] in " \t")
        if starts and block:
            yield " ".join(block)
            block = []
        if text:
            block.append(text)
    if block:
        yield " ".join(block)


def _is_hard_wrapped(source: str) -> tuple[bool, bool]:
    """Whether lines are cut at a fixed width, and whether paragraphs are then marked by indentation alone."""
    lines = [line for _, line in islice(_lines(source), 2000)]
    full = [line for line in lines if line.strip()]
    open_ended = sum(not _SENTENCE_END.search(line.strip()) for line in full)
    # Nineteen of twenty lines within a printed page's width, most of them ending in mid-sentence.
    narrow = bool(full) and sorted(map(len, full))[int(0.95 * (len(full) - 1))] <= 120
    wrapped = narrow and open_ended >= 0.5 * len(full)
    few_blanks = (len(lines) - len(full)) < 0.02 * len(lines)
    return wrapped, few_blanks and sum(line[:1] in " \t" for line in full) >= 0.02 * len(full)


# -- rows --------------------------------------------------------------------------------------------------------


def read_rows(source: str, column_names: Sequence[str] | None = None) -> Iterator[Row]:
    """Stream the rows of a TSV, CSV, JSONL or Parquet file, or of a hub data set `hub:NAME[:CONFIG[:SPLIT]]`.

    TSV is read without quote handling, as GLUE is published; CSV with it. The first line of both names the
    columns, unless `column_names` does.

    Raises:
        InputError: unknown format, a malformed line, undecodable bytes, or no data set of that name.
    """
    if source.startswith(HUB):
        yield from _hub_rows(source)
        return
    reader = TABLE_READERS.get(_suffix(Path(source)))
    if reader is None:
        raise InputError(f"{source}: expected a file that ends in {', '.join(TABLE_READERS)} (or these with .gz)")
    if not Path(source).is_file():
        raise InputError(f"{source}: no such file")
    yield from reader(source, column_names)


def column(row: Row, name: str) -> str:
    """The value of one column as text.

    Raises:
        InputError: the row has no such column (the message names those it has), no value, or no proper text.
    """
    if name not in row.values:
        raise InputError(f"{row.place}: no column {name!r}; the columns are: {', '.join(map(str, row.values))}")
    value = row.values[name]
    if value is None:
        raise InputError(f"{row.place}: the column {name!r} is null")
    text = value if isinstance(value, str) else str(value)
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise InputError(f"{row.place}: the column {name!r} holds half a character (a lone surrogate)")
    return text


def _tsv_rows(source: str, names: Sequence[str] | None) -> Iterator[Row]:
    yield from _delimited(source, ((n, line.rstrip("\r\n").split("\t")) for n, line in _lines(source)), names)


def _csv_rows(source: str, names: Sequence[str] | None) -> Iterator[Row]:
    csv.field_size_limit(_MAX_FIELD)
    reader = csv.reader((line for _, line in _lines(source)), strict=True)
    try:
        yield from _delimited(source, ((reader.line_num, fields) for fields in reader), names)
    except csv.Error as error:
        raise InputError(f"{source}: line {reader.line_num}: {error}") from None


def _delimited(source: str, lines: Iterable[tuple[int, list[str]]], names: Sequence[str] | None) -> Iterator[Row]:
    header = list(names) if names else None
    for number, fields in lines:
        if header is None:
            header = fields
        elif len(fields) == len(header):
            yield Row(f"{source}: line {number}", dict(zip(header, fields, strict=True)))
        elif any(field.strip() for field in fields):
            raise InputError(f"{source}: line {number}: {len(fields)} columns, but the first line has {len(header)}")


def _jsonl_rows(source: str, _: Sequence[str] | None) -> Iterator[Row]:
    for number, line in _lines(source):
        if line.strip():
            yield json_row(f"{source}: line {number}", line)


def json_row(place: str, line: str) -> Row:
    """A JSON object on one line as a row.

    Raises:
        InputError: it is none.
    """
    try:
        values = json.loads(line)
    except ValueError as error:
        raise InputError(f"{place}: not JSON: {error}") from None
    if not isinstance(values, dict):
        raise InputError(f"{place}: a JSON object is expected, not {type(values).__name__}")
    return Row(place, values)


def _parquet_rows(source: str, _: Sequence[str] | None) -> Iterator[Row]:
    import pyarrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(source)
        number = 0
        for batch in file.iter_batches(batch_size=1024):
            for values in batch.to_pylist():
                number += 1
                yield Row(f"{source}: row {number}", values)
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{source}: not readable as Parquet: {error}") from None


def _hub_rows(source: str) -> Iterator[Row]:
    import datasets

    name, *rest = source.removeprefix(HUB).split(":")
    config = rest[0] if rest and rest[0] else None
    split = rest[1] if len(rest) > 1 else "train"
    # Whatever goes wrong here (no network, no such name, a refused script) is an input that cannot be had.
    try:
        rows = datasets.load_dataset(name, config, split=split, streaming=True)
        for number, values in enumerate(rows, 1):
            yield Row(f"{source}: row {number}", dict(values))
    except InputError:
        raise
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{source}: the data set cannot be loaded: {reason}") from None


TABLE_READERS: dict[str, Callable[[str, Sequence[str] | None], Iterator[Row]]] = {
    ".tsv": _tsv_rows,
    ".csv": _csv_rows,
    ".jsonl": _jsonl_rows,
    ".parquet": _parquet_rows,
}
CORPUS_SUFFIXES = (".txt", ".jsonl", ".parquet")


# -- lines -------------------------------------------------------------------------------------------------------


def _suffix(path: Path) -> str:
    return Path(path.stem).suffix if path.suffix == _COMPRESSED else path.suffix


def read_lines(source: str) -> Iterator[tuple[str, str]]:
    """Lines of a UTF-8 file (plain or .gz) or of standard input (`-`), each with its place as an error names it.

    Line ends are removed, and so is a byte-order mark.

    Raises:
        InputError: unreadable, or not UTF-8: the message names line and byte offset.
    """
    name = "standard input" if source == STANDARD_INPUT else source
    for number, line in _lines(source):
        yield f"{name}: line {number}", line.rstrip("\r\n")


def _open(source: str) -> AbstractContextManager[IO[bytes]]:
    if source == STANDARD_INPUT:
        return nullcontext(sys.stdin.buffer)
    if source.endswith(_COMPRESSED):
        return cast(IO[bytes], gzip.open(source))
    return open(source, "rb")


def _lines(source: str) -> Iterator[tuple[int, str]]:
    """Numbered lines with their ends."""
    offset = 0
    name = "standard input" if source == STANDARD_INPUT else source
    try:
        with _open(source) as file:
            for number, raw in enumerate(file, 1):
                try:
                    line = raw.decode("utf-8")
                except UnicodeDecodeError as error:
                    raise InputError(
                        f"{name}: line {number}: byte {offset + error.start} (0x{raw[error.start]:02x}) is not UTF-8"
                    ) from None
                offset += len(raw)
                yield number, line.removeprefix("\ufeff") if number == 1 else line
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{name}: cannot be read: {error}") from None
