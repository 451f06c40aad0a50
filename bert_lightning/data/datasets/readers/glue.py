"""The TSV files of GLUE (Wang et al. 2019): columns by number, no quoting, and mostly a header."""

import logging
from collections.abc import Callable, Iterator, Sequence

from bert_lightning.data.datasets.examples import LabelledText
from bert_lightning.data.datasets.readers.texts import number_of
from bert_lightning.data.reading.lines import numbered_lines
from bert_lightning.data.reading.tables import wrong_columns
from bert_lightning.errors import InputError

log = logging.getLogger(__name__)
_ID_NAMES = ("index", "id")


def read_glue(
    source: str,
    text_columns: Sequence[int],
    label_column: int | None,
    labels: Sequence[str] | None,
    header: bool = True,
    skip_malformed: bool = False,
    keep: Callable[[list[str]], bool] | None = None,
    extra_columns: bool = False,
) -> Iterator[LabelledText]:
    """Stream one file.

    The id is the value of a first column called `index` or `id`. Without one it is the number of the row, counted
    from 0 as in GLUE's submissions.

    Args:
        source: TSV file, whatever its suffix.
        text_columns: the column of the text, or the two of a pair, counted from 0.
        label_column: counted from 0, negative from the end; None for a file whose labels are hidden.
        labels: the labels that may occur; None for numbers.
        header: whether the first line names the columns.
        skip_malformed: whether to leave out rows of another number of columns than the first line, with one warning.
            Some of QQP's training rows are broken.
        keep: decides by the columns of a row whether to read it. Rows that it skips get no number.
        extra_columns: whether rows may differ in the number of columns after those that are read.

    Raises:
        InputError: a row has another number of columns than the first line, or a label is none of `labels`.
    """
    num_columns, num_read, num_skipped, has_id = 0, 0, 0, False
    for number, line in numbered_lines(source):
        location = f"{source}: line {number}"
        fields = line.rstrip("\r\n").split("\t")
        if not num_columns:
            num_columns = len(fields)
            last = max(*text_columns, label_column or 0)
            if last >= num_columns:
                raise InputError(
                    f"{location}: this line has {num_columns} columns, but column {last} (counted from 0) is needed"
                )
            num_columns = last + 1 if extra_columns else num_columns
            has_id = header and fields[0] in _ID_NAMES
            if header:
                continue
        if not any(field.strip() for field in fields):
            continue
        if len(fields) != num_columns and not (extra_columns and len(fields) > num_columns):
            if not skip_malformed:
                raise wrong_columns(location, len(fields), num_columns)
            num_skipped += 1
            continue
        if keep is not None and not keep(fields):
            continue
        text, *pair = (fields[column] for column in text_columns)
        label = None if label_column is None else _label(location, fields[label_column], labels)
        yield LabelledText(location, text, pair[0] if pair else None, label, fields[0] if has_id else str(num_read))
        num_read += 1
    if num_skipped:
        log.warning("%s: %d rows are skipped, because they do not have %d columns", source, num_skipped, num_columns)


def _label(location: str, text: str, labels: Sequence[str] | None) -> str | float:
    if labels is None:
        return number_of(location, text)
    if text not in labels:
        raise InputError(f"{location}: the label {text!r} is none of {', '.join(labels)}")
    return text
