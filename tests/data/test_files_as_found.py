"""Files as other programs write them, beside the files that programs leave behind."""

import json
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

from bert_lightning.data.documents import CorpusFormat, read_passages
from bert_lightning.data.readers.choices import read_choices
from bert_lightning.data.readers.relations import read_relations
from bert_lightning.data.readers.texts import read_labelled_texts
from bert_lightning.data.sources import CORPUS_SUFFIXES, as_text, find_sources, read_rows
from bert_lightning.data.standard_sets import locate
from bert_lightning.errors import InputError

APPLE_DOUBLE = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X\xff"


def write(path: Path, content: str | bytes) -> str:
    """The name of a file with this content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


# -- hidden files --------------------------------------------------------------------------------------------------


def leave_files_behind(folder: Path, name: str, content: bytes) -> None:
    """What Jupyter, macOS, Windows and an editor leave beside the file `name` of a folder."""
    stem, suffix = Path(name).stem, Path(name).suffix
    write(folder / ".ipynb_checkpoints" / f"{stem}-checkpoint{suffix}", content)
    write(folder / "__MACOSX" / f"._{name}", APPLE_DOUBLE)
    write(folder / f"._{name}", APPLE_DOUBLE)
    for other in (f".#{name}", "Thumbs.db", "desktop.ini", f"{name}~", f"#{name}#"):
        write(folder / other, APPLE_DOUBLE)


def test_a_folder_of_texts_has_no_hidden_classes_and_no_hidden_texts(tmp_path: Path):
    for label in ("neg", "pos"):
        write(tmp_path / label / "0.txt", label)
        leave_files_behind(tmp_path / label, "0.txt", b"copy")
    leave_files_behind(tmp_path, "0.txt", b"copy")
    examples = list(read_labelled_texts(str(tmp_path), "text", None, "label"))
    assert [(example.text, example.label) for example in examples] == [("neg", "neg"), ("pos", "pos")]


def test_a_folder_and_a_glob_of_a_corpus_leave_hidden_files_out_but_a_named_one_is_read(tmp_path: Path):
    write(tmp_path / "a.txt", "One.")
    leave_files_behind(tmp_path, "a.txt", b"One.")
    for source in (tmp_path, tmp_path / "*", tmp_path / "**" / "*.txt"):
        assert find_sources([str(source)], CORPUS_SUFFIXES) == [str(tmp_path / "a.txt")]
    named = str(tmp_path / ".ipynb_checkpoints" / "a-checkpoint.txt")
    assert find_sources([named], CORPUS_SUFFIXES) == [named]
    hidden = tmp_path / ".ipynb_checkpoints"
    assert find_sources([str(hidden)], CORPUS_SUFFIXES) == [named]
    assert find_sources([str(hidden / "*.txt")], CORPUS_SUFFIXES) == [named]


def test_a_folder_of_race_has_the_questions_of_its_visible_files(tmp_path: Path):
    content = json.dumps({"article": "A.", "questions": ["Q?"], "options": [["a", "b"]], "answers": ["A"]}).encode()
    write(tmp_path / "high" / "1.txt", content)
    leave_files_behind(tmp_path / "high", "1.txt", content)
    leave_files_behind(tmp_path, "1.txt", content)
    assert [question.id for question in read_choices(str(tmp_path))] == ["high/1-0"]


def test_a_standard_data_set_is_found_beside_hidden_copies_of_it(tmp_path: Path):
    file = write(tmp_path / "en_ewt-ud-train.conllu", "")
    leave_files_behind(tmp_path, "en_ewt-ud-train.conllu", b"")
    assert [source for _, source in locate("universal-dependencies-pos", "train", str(tmp_path))] == [file]
    with pytest.raises(InputError, match=r"the folder holds: en_ewt-ud-train\.conllu$"):
        locate("universal-dependencies-pos", "validation", str(tmp_path))


# -- values that are no text ---------------------------------------------------------------------------------------

NAN, INFINITE = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((7, "7"), (0.5, "0.5"), (True, "True"), (np.int64(7), "7"), (np.float32(0.5), "0.5"), (np.True_, "True")),
        *((Decimal("1.50"), "1.50"), (np.str_("a"), "a"), ("", ""), ("nan", "nan")),
    ],
)
def test_numbers_and_truth_values_are_text(value, text):
    assert as_text("here", "it", value) == text


@pytest.mark.parametrize(
    "value",
    [
        *(
            None,
            NAN,
            INFINITE,
            -INFINITE,
            np.float32("nan"),
            np.float64("inf"),
            Decimal("NaN"),
            b"a",
            ["a"],
            {"a": 1},
        ),
        *(("a",), {"a"}, date(2020, 1, 1), datetime(2020, 1, 1), np.datetime64("NaT"), np.array(["a"]), object()),
        *(pd.NA, pd.NaT, 1j),
    ],
)
def test_a_value_that_is_missing_or_no_text_is_refused_with_its_place(value):
    with pytest.raises(InputError, match=r"^t\.jsonl: line 2: the label (is|holds)"):
        as_text("t.jsonl: line 2", "the label", value)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("form", ['{{"text": {}, "label": "x"}}', '{{"text": "a", "label": {}}}'])
def test_a_text_or_label_of_nan_in_json_is_refused_with_line_and_column(tmp_path: Path, form, value):
    source = write(tmp_path / "t.jsonl", '{"text": "a", "label": "y"}\n' + form.format(value) + "\n")
    with pytest.raises(InputError, match=r"t\.jsonl: line 2: the column '(text|label)' is -?(nan|inf), which stands"):
        list(read_labelled_texts(source, "text", None, "label"))


def test_nan_is_refused_in_second_texts_lists_of_labels_ids_choices_and_relations(tmp_path: Path):
    row = {"text": "a", "pair": "b", "label": ["x"], "id": "1"}
    for key, value in (("pair", NAN), ("label", ["x", NAN]), ("id", NAN)):
        source = write(tmp_path / "t.jsonl", json.dumps({**row, key: value}))
        with pytest.raises(InputError, match=r"line 1: .*nan"):
            list(read_labelled_texts(source, "text", "pair", "label", id_column="id"))
    question = {"context": "c", "choices": ["a", "b"], "label": 0}
    for change in ({"choices": ["a", NAN]}, {"label": INFINITE}, {"context": NAN}, {"id": NAN}):
        source = write(tmp_path / "c.jsonl", json.dumps({**question, **change}))
        with pytest.raises(InputError, match=r"line 1: .*(nan|inf)"):
            list(read_choices(source))
    source = write(tmp_path / "r.jsonl", json.dumps({"text": "<e1>a</e1> <e2>b</e2>", "label": INFINITE}))
    with pytest.raises(InputError, match="line 1: the column 'label' is inf"):
        list(read_relations(source))


def test_nan_in_parquet_is_refused_with_its_row(tmp_path: Path):
    path = tmp_path / "t.parquet"
    parquet.write_table(pa.table({"text": ["a", "b"], "label": [1.0, NAN]}), path)
    with pytest.raises(InputError, match=r"t\.parquet: row 2: the column 'label' is nan"):
        list(read_labelled_texts(str(path), "text", None, "label"))


def test_a_document_of_nan_is_refused_with_its_line(tmp_path: Path):
    source = write(tmp_path / "c.jsonl", '{"text": "One."}\n{"text": NaN}\n')
    with pytest.raises(InputError, match=r"c\.jsonl: line 2: the column 'text' is nan"):
        list(read_passages(source, CorpusFormat()))


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("t.tsv", "text\tlabel\ttext\na\tx\tb\n", "line 1: 2 columns are called 'text'"),
        ("t.csv", "label,text,label\nx,a,y\n", "line 1: 2 columns are called 'label'"),
        ("t.jsonl", '{"text": "a"}\n{"text": "a", "text": "b"}\n', "line 2: the key 'text' occurs twice"),
    ],
)
def test_a_doubled_column_is_refused_by_its_name(tmp_path: Path, name, content, place):
    source = write(tmp_path / name, content)
    with pytest.raises(InputError, match=place):
        list(read_rows(source))


def test_a_doubled_column_of_parquet_or_of_the_settings_is_refused_by_its_name(tmp_path: Path):
    path = tmp_path / "t.parquet"
    parquet.write_table(pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], ["text", "text"]), path)
    with pytest.raises(InputError, match="2 columns are called 'text'"):
        list(read_rows(str(path)))
    with pytest.raises(InputError, match="2 columns are called 'x'"):
        list(read_rows(write(tmp_path / "t.csv", "a,b\n"), ["x", "x"]))


def test_columns_without_a_name_may_be_several(tmp_path: Path):
    assert len(list(read_rows(write(tmp_path / "t.csv", "text,,\na,,\n")))) == 1


@pytest.mark.parametrize(("name", "separator"), [("t.csv", ","), ("t.tsv", "\t")])
def test_a_row_of_blank_cells_is_a_blank_line_except_in_a_corpus(tmp_path: Path, name, separator):
    rows = [["text", "label"], ["a", "x"], ["", ""], [" ", ""], [], ["b", "y"]]
    source = write(tmp_path / name, "".join(separator.join(row) + "\n" for row in rows))
    examples = list(read_labelled_texts(source, "text", None, "label"))
    assert [(example.text, example.id) for example in examples] == [("a", "0"), ("b", "1")]
    documents = [passage.segments for passage in read_passages(source, CorpusFormat(layout="sentences"))]
    assert documents == [["a"], ["b"]]
