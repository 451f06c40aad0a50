import gzip
import json
from pathlib import Path

import datasets
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from bert_lightning.data.sources import (
    CORPUS_SUFFIXES,
    TABLE_READERS,
    column,
    detect_layout,
    find_sources,
    read_documents,
    read_rows,
)
from bert_lightning.errors import InputError

ROWS = [
    {"text": "One. Two.", "label": "a"},
    {"text": 'quoted "here", so', "label": "b"},
    {"text": "é中", "label": "a"},
]


def write_table(path: Path, rows) -> Path:
    """The rows in the format that the suffix names."""
    suffix = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
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
    content = "\n".join(lines) + "\n"
    (gzip.open if path.suffix == ".gz" else open)(path, "wb").write(content.encode())
    return path


@pytest.mark.parametrize("suffix", [*TABLE_READERS, ".tsv.gz", ".jsonl.gz", ".csv.gz"])
def test_every_table_format_gives_the_same_rows_with_their_place(tmp_path: Path, suffix: str):
    path = write_table(tmp_path / f"table{suffix}", ROWS)
    rows = list(read_rows(str(path)))
    assert [row.values for row in rows] == ROWS
    assert all(str(path) in row.place for row in rows)


def test_a_hub_data_set_gives_the_same_rows(tmp_path: Path):
    datasets.Dataset.from_list(ROWS).to_json(tmp_path / "train.jsonl")
    assert [row.values for row in read_rows(f"hub:{tmp_path}")] == ROWS


def test_a_hub_data_set_that_cannot_be_had_is_one_error():
    with pytest.raises(InputError, match="hub:no-such-name-anywhere: the data set cannot be loaded"):
        list(read_rows("hub:no-such-name-anywhere"))


def test_quotes_in_a_tsv_are_literal(tmp_path: Path):
    (tmp_path / "t.tsv").write_text('text\tlabel\n"open\t1\nnext"\t0\n')
    assert [row.values["text"] for row in read_rows(str(tmp_path / "t.tsv"))] == ['"open', 'next"']


def test_column_names_stand_in_for_a_missing_header(tmp_path: Path):
    (tmp_path / "t.tsv").write_text("x\t1\ny\t0\n")
    rows = list(read_rows(str(tmp_path / "t.tsv"), ["text", "label"]))
    assert [row.values for row in rows] == [{"text": "x", "label": "1"}, {"text": "y", "label": "0"}]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.tsv", b"a\tb\n1\t2\n3\n", r"t\.tsv: line 3: 1 columns, but the first line has 2"),
        ("t.jsonl", b'{"a": 1}\n{"a": \n', r"t\.jsonl: line 2: not JSON"),
        ("t.jsonl", b"[1]\n", r"t\.jsonl: line 1: a JSON object is expected"),
        ("t.csv", b'a,b\n"x,1\n', r"t\.csv: line 2: "),
        ("t.tsv", b"a\tb\n1\t\xff\n", r"t\.tsv: line 2: byte 6 \(0xff\) is not UTF-8"),
        ("t.parquet", b"PAR1 no", "not readable as Parquet"),
        ("t.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 99)[:-12], "cannot be read"),
        ("t.xlsx", b"", r"expected a file that ends in \.tsv"),
    ],
)
def test_a_malformed_table_names_file_and_line(tmp_path: Path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        list(read_rows(str(tmp_path / name)))


def test_a_missing_column_names_those_there_are(tmp_path: Path):
    path = write_table(tmp_path / "t.tsv", ROWS)
    with pytest.raises(InputError, match=r"line 2: no column 'sentence'; the columns are: text, label"):
        column(next(read_rows(str(path))), "sentence")


@given(
    documents=st.lists(
        st.lists(st.text("ab .", min_size=1).filter(str.strip), min_size=1, max_size=4), min_size=1, max_size=4
    ),
    line_end=st.sampled_from(["\n", "\r\n"]),
    mark=st.sampled_from(["", "\ufeff"]),
)
def test_the_original_format_reads_back_with_any_line_end_and_byte_order_mark(
    tmp_path_factory, documents, line_end, mark
):
    path = tmp_path_factory.mktemp("text") / "c.txt"
    text = (line_end * 2).join(line_end.join(document) for document in documents)
    path.write_bytes((mark + text + line_end).encode())
    read = [document.segments for document in read_documents(str(path), "sentences", "text")]
    assert read == [[line.strip() for line in document] for document in documents]


PARAGRAPH = "It was late. The man, who had waited long, went home and slept. Nobody saw him. It rained."
WRAPPED = PARAGRAPH.replace(", ", ",\n").replace(" and ", " and\n").replace("saw ", "saw\n") + "\n"


@pytest.mark.parametrize(
    ("text", "layout", "paragraphs"),
    [
        ("He came.\nShe left.\nIt rained.\n\nThey met.\nThey spoke.\n", "sentences", None),
        (f"{PARAGRAPH}\n\n{PARAGRAPH}\n\n", "paragraphs", 2),
        (f"{PARAGRAPH}\n{PARAGRAPH}\n{PARAGRAPH}\n", "paragraphs", 3),
        (f"{WRAPPED}\n{WRAPPED}", "paragraphs", 2),
    ],
    ids=["original", "blank lines", "a line each", "hard-wrapped"],
)
def test_the_layout_is_recognised_and_paragraphs_are_joined(tmp_path: Path, text, layout, paragraphs):
    path = tmp_path / "c.txt"
    path.write_text(text)
    assert detect_layout(str(path)) == layout
    if paragraphs is not None:
        [document] = read_documents(str(path), "auto", "text")
        assert len(document.segments) == paragraphs
        assert " ".join(document.segments).split() == text.split()


def test_folders_globs_and_files_give_each_file_once_in_order(tmp_path: Path):
    for name in ("b.txt", "a.txt", "c.jsonl", "skip.me", "sub/d.txt.gz", "no.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    inputs = [str(tmp_path / "b.txt"), str(tmp_path), str(tmp_path / "*.txt")]
    found = find_sources(inputs, CORPUS_SUFFIXES, exclude=["no*"])
    assert [Path(f).name for f in found] == ["b.txt", "a.txt", "c.jsonl", "d.txt.gz"]


@pytest.mark.parametrize(
    ("path", "message"), [("nothing.txt", "no such file"), ("*.md", "no file matches"), (".", "no file")]
)
def test_an_input_that_matches_nothing_is_named(tmp_path: Path, path, message):
    with pytest.raises(InputError, match=message):
        find_sources([str(tmp_path / path)], CORPUS_SUFFIXES)
