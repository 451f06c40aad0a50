"""Data sets of GLUE in the form in which their authors publish them."""

import logging
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from bert_lightning.data.datasets.examples import LabelledText
from bert_lightning.data.datasets.labels import NLI_LABELS, leave_out_disagreement
from bert_lightning.data.datasets.readers.glue import read_glue
from bert_lightning.data.reading.lines import numbered_lines
from bert_lightning.data.reading.tables import Row, column, read_rows
from bert_lightning.errors import InputError

log = logging.getLogger(__name__)
_DEVELOPMENT_IDS = ("dev_ids.tsv", "mrpc_dev_ids.tsv")
_COLA_DEV = "in_domain_dev.tsv", "out_of_domain_dev.tsv"
_BINARY = ("0", "1")
# The label of every pair of MultiNLI's test sets.
_HIDDEN = "hidden"

Pair = tuple[str, str]


def read_msr_paraphrase(source: str, split: str) -> Iterator[LabelledText]:
    """Stream `msr_paraphrase_train.txt` or `msr_paraphrase_test.txt` (Dolan and Brockett 2005).

    GLUE's development set is 408 of the 4,076 training pairs. Its list `dev_ids.tsv` holds their ids. If the list is
    in the folder of the file or one folder above, it separates validation from training. Without it, all pairs are
    for training, with a warning. The test set is the whole file, with its labels.

    Raises:
        InputError: validation is read without the list, or the list is malformed or names other pairs.
    """
    path = Path(source)
    candidates = [folder / name for folder in (path.parent, path.parent.parent) for name in _DEVELOPMENT_IDS]
    ids_file = next((file for file in candidates if file.is_file()), None) if split != "test" else None
    if ids_file is None and split == "validation":
        raise InputError(
            f"{source}: GLUE's development set is 408 of these pairs, which its list {_DEVELOPMENT_IDS[0]} names. "
            f"The list is not in {path.parent}: put it there, or name a file with GLUE's columns, such as dev.tsv, "
            "with data.validation"
        )
    if ids_file is None and split == "train":
        log.warning(
            "%s: the list %s of GLUE's development set is not in %s, so its 408 pairs are trained on as well. "
            "Scores on them are meaningless",
            source, _DEVELOPMENT_IDS[0], path.parent,
        )  # fmt: skip
    ids = None if ids_file is None else _pairs_of_ids(str(ids_file))
    ids_in_source: set[Pair] = set()

    def is_of_split(fields: list[str]) -> bool:
        pair = fields[1], fields[2]
        if ids is None or pair not in ids:
            return split != "validation"
        ids_in_source.add(pair)
        return split == "validation"

    yield from read_glue(source, (3, 4), 0, _BINARY, keep=is_of_split)
    for pair, location in (ids or {}).items():
        if pair not in ids_in_source:
            raise InputError(f"{location}: no pair of {source} has the ids {' and '.join(pair)}")


def _pairs_of_ids(source: str) -> dict[Pair, str]:
    """Read pairs of ids, each with its location."""
    pairs: dict[Pair, str] = {}
    for number, line in numbered_lines(source):
        fields = line.split()
        location = f"{source}: line {number}"
        if fields and (len(fields) != 2 or not all(map(str.isdecimal, fields))):
            raise InputError(f"{location}: two ids with a tab between them are expected")
        if fields:
            pairs[fields[0], fields[1]] = location
    return pairs


def read_sts_benchmark(source: str, split: str) -> Iterator[LabelledText]:
    """Stream `sts-train.csv`, `sts-dev.csv` or `sts-test.csv` (Cer et al. 2017).

    Tabs separate the columns; there is no quoting and no header. Some rows have two more columns, the licences.
    """
    return read_glue(source, (5, 6), 4, None, header=False, extra_columns=True)


def read_cola_public(source: str, split: str) -> Iterator[LabelledText]:
    """Stream `in_domain_train.tsv`, or `in_domain_dev.tsv` and `out_of_domain_dev.tsv` (Warstadt et al. 2019).

    GLUE's development set is both development files, one after the other.

    Raises:
        InputError: the second file of the development set is missing.
    """
    path, sources = Path(source), [source]
    if path.name.startswith(_COLA_DEV[0]):
        sources.append(str(path.with_name(path.name.replace(_COLA_DEV[0], _COLA_DEV[1]))))
        if not Path(sources[1]).is_file():
            raise InputError(f"{sources[1]}: no such file; GLUE's development set is {' and '.join(_COLA_DEV)}")
    numbers = count()
    for each in sources:
        for example in read_glue(each, (3,), 1, _BINARY, header=False):
            yield example._replace(id=str(next(numbers)))


def read_multinli(source: str, split: str) -> Iterator[LabelledText]:
    """Stream `multinli_1.0_train.jsonl`, a development set or an unlabelled test set (Williams et al. 2018).

    Pairs without agreement, labelled `-`, are left out with a warning, as in GLUE. The test sets label every pair
    `hidden`.

    Raises:
        InputError: a key is missing, or a label is not one of these.
    """
    numbers = count()
    for row in leave_out_disagreement(read_rows(source), _gold_label, source):
        label = _gold_label(row)
        if label not in NLI_LABELS and not (label == _HIDDEN and split == "test"):
            raise InputError(f"{row.location}: the label {label!r} is none of {', '.join(NLI_LABELS)}")
        texts = column(row, "sentence1"), column(row, "sentence2")
        yield LabelledText(row.location, *texts, None if label == _HIDDEN else label, str(next(numbers)))


def _gold_label(row: Row) -> str:
    return column(row, "gold_label")
