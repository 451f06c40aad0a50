import gzip
import json
import lzma
import re
from pathlib import Path

import datasets
import pyarrow as pa
import pytest
from pyarrow import parquet

from bert_lightning.data.reading.lines import Repairs
from bert_lightning.data.reading.sources import CORPUS_SUFFIXES, find_sources
from bert_lightning.data.reading.tables import TABLE_READERS, column, read_rows
from bert_lightning.errors import InputError
from tests.support.files import zstandard

ROWS = [
    {"text": "One. Two.", "label": "a"},
    {"text": 'quoted "here", so', "label": "b"},
    {"text": "é中", "label": "a"},
]


COMPRESS = {".gz": gzip.compress, ".xz": lzma.compress, ".zst": zstandard}


def write_table(path: Path, rows) -> Path:
    """Write rows in the format that the suffix names."""
    suffix = path.with_suffix("").suffix if path.suffix in COMPRESS else path.suffix
    if suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
        return path
    if suffix == ".jsonl":
        lines = [json.dumps(row) for row in rows]
    elif suffix == ".tsv":
        lines = ["\t".join(rows[0]), *("\t".join(row.values()) for row in rows)]
    else:
        quoted = [[value.replace('"', '""') for value in row.values()] for row in rows]
        lines = [",".join(rows[0]), *(",".join(f'"{value}"' for value in row) for row in quoted)]
    content = ("\n".join(lines) + "\n").encode()
    path.write_bytes(COMPRESS[path.suffix](content) if path.suffix in COMPRESS else content)
    return path


@pytest.mark.parametrize("suffix", [*TABLE_READERS, ".tsv.gz", ".jsonl.zst", ".csv.xz"])
def test_every_table_format_gives_the_same_rows_with_their_location(tmp_path: Path, suffix: str):
    path = write_table(tmp_path / f"table{suffix}", ROWS)
    rows = list(read_rows(str(path)))
    assert [row.values for row in rows] == ROWS
    assert all(str(path) in row.location for row in rows)


def test_a_hub_data_set_gives_the_same_rows(tmp_path: Path):
    datasets.Dataset.from_list(ROWS).to_json(tmp_path / "train.jsonl")
    assert [row.values for row in read_rows(f"hub:{tmp_path}")] == ROWS


def test_an_unavailable_hub_data_set_is_one_error():
    with pytest.raises(InputError, match="hub:no-such-name-anywhere: the data set cannot be loaded"):
        list(read_rows("hub:no-such-name-anywhere"))


def test_quotes_in_a_tsv_are_literal(tmp_path: Path):
    (tmp_path / "t.tsv").write_text('text\tlabel\n"open\t1\nnext"\t0\n')
    assert [row.values["text"] for row in read_rows(str(tmp_path / "t.tsv"))] == ['"open', 'next"']


def test_column_names_replace_a_missing_header(tmp_path: Path):
    (tmp_path / "t.tsv").write_text("x\t1\ny\t0\n")
    rows = list(read_rows(str(tmp_path / "t.tsv"), ["text", "label"]))
    assert [row.values for row in rows] == [{"text": "x", "label": "1"}, {"text": "y", "label": "0"}]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.tsv", b"a\tb\n1\t2\n3\n", r"t\.tsv: line 3: this line has 1 columns, but the first line has 2"),
        ("t.jsonl", b'{"a": 1}\n{"a": \n', r"t\.jsonl: line 2: not JSON: Expecting value, column 6"),
        ("t.jsonl", b"[1]\n", r"t\.jsonl: line 1: a JSON object is expected"),
        ("t.csv", b'a,b\n"x,1\n', r"t\.csv: line 2: "),
        ("t.tsv", b"a\tb\n1\t\xff\n", r"t\.tsv: line 2: byte 6 \(0xff\) is not UTF-8"),
        ("t.parquet", b"PAR1 no", "not readable as Parquet"),
        ("t.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 99, mtime=0)[:-12], "cannot be read"),
        ("t.jsonl.xz", lzma.compress(b'{"a": 1}\n' * 99)[:-12], "cannot be read"),
        ("t.jsonl.zst", zstandard(b'{"a": 1}\n' * 99)[:-4], "cannot be read"),
        ("t.jsonl.zst", b"no frame at all", "cannot be read"),
        ("t.xlsx", b"", r"expected a file that ends in \.tsv"),
    ],
)
def test_a_malformed_table_names_file_and_line(tmp_path: Path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        list(read_rows(str(tmp_path / name)))


def test_a_missing_column_is_refused_with_the_names_of_the_columns(tmp_path: Path):
    path = write_table(tmp_path / "t.tsv", ROWS)
    with pytest.raises(InputError, match=r"line 2: there is no column 'sentence'; the columns are: text, label"):
        column(next(read_rows(str(path))), "sentence")


def test_folders_globs_and_files_give_each_file_once_in_order(tmp_path: Path):
    for name in ("b.txt", "a.txt", "c.jsonl", "skip.me", "sub/d.txt.gz", "sub/e.txt.zst", "no.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    inputs = [str(tmp_path / "b.txt"), str(tmp_path), str(tmp_path / "*.txt")]
    found = find_sources(inputs, CORPUS_SUFFIXES, exclude=["no*"])
    assert [Path(f).name for f in found] == ["b.txt", "a.txt", "c.jsonl", "d.txt.gz", "e.txt.zst"]


@pytest.mark.parametrize(
    ("path", "message"), [("nothing.txt", "no such file"), ("*.md", "no file matches"), (".", "no file")]
)
def test_an_input_that_matches_nothing_is_named(tmp_path: Path, path, message):
    with pytest.raises(InputError, match=message):
        find_sources([str(tmp_path / path)], CORPUS_SUFFIXES)


@pytest.mark.parametrize("pattern", ["", ".", "./"])
def test_an_exclusion_that_names_no_file_is_refused(tmp_path: Path, pattern):
    (tmp_path / "a.txt").touch()
    with pytest.raises(InputError, match=f"^--exclude '{re.escape(pattern)}' names no file"):
        find_sources([str(tmp_path)], CORPUS_SUFFIXES, exclude=["b*", pattern])


def test_a_hub_name_with_more_fields_is_refused():
    with pytest.raises(InputError, match=r"^hub:a:b:c:d has 4 fields; hub:NAME"):
        find_sources(["hub:a:b:c:d"], CORPUS_SUFFIXES)


@pytest.mark.parametrize("source", ["hub:", "hub:@main", "hub::config"])
def test_an_empty_hub_name_is_refused_by_every_reader(source):
    for read in (lambda: find_sources([source], [".txt"]), lambda: list(read_rows(source))):
        with pytest.raises(InputError, match=f"^{source} names no data set"):
            read()


def test_undecodable_bytes_of_a_table_are_replaced_and_counted(tmp_path: Path):
    (tmp_path / "t.jsonl").write_bytes(b'{"a": "x\xff"}\n')
    repairs = Repairs()
    rows = list(read_rows(str(tmp_path / "t.jsonl"), errors="replace", repairs=repairs))
    assert rows[0].values == {"a": "x\ufffd"}
    assert repairs.num_replaced == 1
