"""Labelled texts, single or in pairs: tables, and folders whose subfolders are the labels."""

import logging
import math
from collections.abc import Iterator, Sequence
from itertools import chain, zip_longest
from pathlib import Path

import numpy as np

from bert_lightning.checkpoints.listing import entries
from bert_lightning.data.datasets.examples import LabelledText
from bert_lightning.data.datasets.labels import indicator_columns, is_list_of_names
from bert_lightning.data.reading.hub import HUB
from bert_lightning.data.reading.lines import format_suffix, numbered_lines
from bert_lightning.data.reading.tables import Row, column, read_rows
from bert_lightning.data.reading.values import as_text
from bert_lightning.errors import InputError

log = logging.getLogger(__name__)
# The unlabelled reviews of IMDB.
_UNLABELLED_FOLDER = "unsup"
# Subfolders that a warning lists.
_MAX_LISTED = 5
_LARGEST = float(np.finfo(np.float32).max)


def read_labelled_texts(
    source: str,
    text_column: str,
    text_pair_column: str | None,
    label_column: str,
    column_names: Sequence[str] | None = None,
    label_separator: str | None = None,
    numeric: bool = False,
    id_column: str | None = None,
    labelled: bool = True,
) -> Iterator[LabelledText]:
    """Stream a table, or a folder of text files.

    A folder needs no columns: every `.txt` file (also compressed) in a subfolder is a text, and the subfolder's name
    is its label. `unsup`, hidden files and hidden folders are left out. Subfolders without a text are left out with
    a warning. The labels alternate, each with its files in the order of their names.

    Args:
        source: TSV without quoting, CSV, JSONL, Parquet, hub data set, or folder.
        text_column: column of the text, or of the first of two.
        text_pair_column: column of the second text, or none.
        label_column: column of the label. A list in it, as JSONL and Parquet can hold, is multi-label.
        column_names: names of the columns, if the file's first line does not give them.
        label_separator: splits the label's text into the names of a multi-label text. Blanks around them are removed.
        numeric: whether the label is a finite number.
        id_column: column of the id. Without it the id is the number of the row, counted from 0.
        labelled: whether labels are read. If not, every label is None.

    Raises:
        InputError: a column is missing, or a value is not a text or a label.

    >>> import tempfile
    >>> file = tempfile.NamedTemporaryFile("w", suffix=".jsonl")
    >>> _ = file.write('{"sentence": "a boat", "topic": "sea"}'); file.flush()
    >>> [(example.text, example.label) for example in read_labelled_texts(file.name, "sentence", None, "topic")]
    [('a boat', 'sea')]
    """
    if not source.startswith(HUB) and Path(source).is_dir():
        if numeric:
            raise InputError(f"{source}: the labels of a folder are names, not numbers")
        yield from _folder_texts(source, labelled)
        return
    for number, row in enumerate(read_rows(source, column_names)):
        yield LabelledText(
            row.location,
            column(row, text_column),
            column(row, text_pair_column) if text_pair_column is not None else None,
            _label(row, label_column, label_separator, numeric) if labelled else None,
            column(row, id_column) if id_column is not None else str(number),
        )


def number_of(location: str, text: str) -> float:
    """Parse the label of a regression: a finite number. Models compute in float32.

    Raises:
        InputError: the label is not a finite number, or is beyond float32.

    >>> number_of("a.tsv: line 2", "3.8")
    3.8
    """
    try:
        # Python reads 1_000 as a thousand; no data set does.
        value = math.nan if "_" in text else float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{location}: the label {text!r} is not a finite number")
    if abs(value) > _LARGEST:
        raise InputError(f"{location}: the label {text!r} is beyond {_LARGEST:.3g}, the largest number of a float32")
    return value


def _label(row: Row, name: str, separator: str | None, numeric: bool) -> str | tuple[str, ...] | float:
    value = row.values.get(name)
    if isinstance(value, list) and not numeric:
        labels = tuple(as_text(row.location, f"a label in the column {name!r}", label) for label in value)
        if not all(map(str.strip, labels)):
            raise InputError(f"{row.location}: a label in the column {name!r} is empty; [] stands for no label")
        return labels
    indicators = indicator_columns(row.values.items()) if name not in row.values else ()
    if len(indicators) > 1:
        raise InputError(
            f"{row.location}: there is no column {name!r}; the columns {', '.join(indicators)} hold 0 and 1. "
            "One column per class cannot be read: write the names of the classes into one column"
        )
    text = column(row, name)
    if numeric:
        return number_of(row.location, text)
    if separator is not None:
        if is_list_of_names(text):
            raise InputError(
                f"{row.location}: the column {name!r} holds a printed list, {text!r}: write the names with "
                f"{separator!r} between them and nothing else, or a list in JSONL"
            )
        return tuple(name.strip() for name in text.split(separator) if name.strip())
    if not text.strip():
        raise InputError(f"{row.location}: the label in the column {name!r} is empty")
    return text


def _folder_texts(source: str, labelled: bool) -> Iterator[LabelledText]:
    folder = Path(source)
    labels = [path for path in entries(folder) if path.is_dir() and path.name != _UNLABELLED_FOLDER]
    files = [[path for path in entries(label) if format_suffix(path) == ".txt"] for label in labels]
    if not any(files):
        raise InputError(
            f"{source}: there is no .txt file in a subfolder; a folder of texts has one subfolder per label"
        )
    if left_out := [label.name for label, texts in zip(labels, files, strict=True) if not texts]:
        names = ", ".join(map(repr, left_out[:_MAX_LISTED])) + ", ..." * (len(left_out) > _MAX_LISTED)
        log.warning("%s: there is no .txt file directly in these subfolders, which are left out: %s", source, names)
    # The labels alternate, so that the first few texts are not all of one label.
    for path in chain.from_iterable(zip_longest(*files)):
        if path is not None:
            pieces = numbered_lines(str(path), cut=True, carriage_returns="allow")
            text = "".join(piece for _, piece in pieces).rstrip("\r\n")
            label = path.parent.name if labelled else None
            yield LabelledText(str(path), text, None, label, path.relative_to(folder).as_posix())
