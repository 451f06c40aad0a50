"""Files as other programs write them, beside the extra files that programs leave."""

import gzip
import json
import re
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from bert_lightning.data.corpus.documents import CorpusFormat, read_passages
from bert_lightning.data.datasets.catalogue import locate
from bert_lightning.data.datasets.readers.choices import read_choices
from bert_lightning.data.datasets.readers.glue import read_glue
from bert_lightning.data.datasets.readers.relations import read_relations
from bert_lightning.data.datasets.readers.tagged import read_tagged
from bert_lightning.data.datasets.readers.texts import read_labelled_texts
from bert_lightning.data.datasets.readers.trec import read_trec
from bert_lightning.data.pretraining.published_generator import _read_documents
from bert_lightning.data.reading import lines
from bert_lightning.data.reading.json_values import read_json
from bert_lightning.data.reading.lines import numbered_lines, read_lines
from bert_lightning.data.reading.sources import CORPUS_SUFFIXES, find_sources
from bert_lightning.data.reading.tables import is_table, read_rows
from bert_lightning.data.reading.values import as_text
from bert_lightning.errors import InputError
from bert_lightning.text.wordpiece import load_tokenizer
from tests.support.files import write

APPLE_DOUBLE = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X\xff"


# -- hidden files --------------------------------------------------------------------------------------------------


def leave_files_behind(folder: Path, name: str, content: bytes) -> None:
    """Write the files that Jupyter, macOS, Windows and an editor leave beside the file `name`."""
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


@pytest.mark.parametrize(
    "name",
    [
        *("a.sync-conflict-20240501-101500-ABCDEFG.txt", "a (Ann's conflicted copy 2024-05-01).txt"),
        *(
            "a.txt:Zone.Identifier",
            "a.txt.filepart",
            "a.txt.part",
            "a.txt.crdownload",
            "System Volume Information/b.txt",
            "Network Trash Folder/b.txt",
        ),
    ],
)
def test_second_copies_and_halves_of_files_are_left_out_too(tmp_path: Path, name):
    write(tmp_path / "a.txt", "One.")
    write(tmp_path / name, "One.")
    for source in (tmp_path, tmp_path / "*", tmp_path / "**" / "*.txt*"):
        assert find_sources([str(source)], CORPUS_SUFFIXES) == [str(tmp_path / "a.txt")]
    assert find_sources([str(tmp_path / name)], CORPUS_SUFFIXES) == [str(tmp_path / name)]


def test_links_to_folders_are_followed_but_never_in_a_circle(tmp_path: Path):
    corpus = tmp_path / "corpus"
    write(corpus / "a.txt", "One.")
    write(corpus / "b" / "c.txt", "Two.")
    write(tmp_path / "elsewhere" / "d.txt", "Three.")
    (corpus / "b" / "again").symlink_to(corpus)
    (corpus / "linked").symlink_to(tmp_path / "elsewhere")
    names = [str(corpus / name) for name in ("a.txt", "b/c.txt", "linked/d.txt")]
    assert find_sources([str(corpus)], CORPUS_SUFFIXES) == names
    found = find_sources([str(corpus / "**" / "*.txt")], CORPUS_SUFFIXES)
    assert sorted(Path(name).resolve() for name in found) == sorted(Path(name).resolve() for name in names)


def test_suffixes_in_capitals_are_those_of_other_files(tmp_path: Path):
    write(tmp_path / "A.TXT", "One.")
    write(tmp_path / "b.Jsonl.GZ", gzip.compress(b'{"text": "Two."}'))
    assert find_sources([str(tmp_path)], CORPUS_SUFFIXES) == [
        str(tmp_path / name) for name in ("A.TXT", "b.Jsonl.GZ")
    ]
    assert [row.values for row in read_rows(str(tmp_path / "b.Jsonl.GZ"))] == [{"text": "Two."}]
    write(tmp_path / "C.CSV", "text,label\na,x\n")
    assert is_table(str(tmp_path / "C.CSV"))
    for label in ("neg", "pos"):
        write(tmp_path / "texts" / label / "0.TXT", label)
    examples = read_labelled_texts(str(tmp_path / "texts"), "text", None, "label")
    assert [example.label for example in examples] == ["neg", "pos"]


@pytest.mark.parametrize("name", ["neutral/0", "neutral/more/0.txt", "neutral/.0.txt"])
def test_a_subfolder_without_texts_is_no_class_and_warned_about(tmp_path: Path, caplog, name):
    for label in ("neg", "pos"):
        write(tmp_path / label / "0.txt", label)
    write(tmp_path / name, "x")
    examples = read_labelled_texts(str(tmp_path), "text", None, "label")
    assert [example.label for example in examples] == ["neg", "pos"]
    assert "no .txt file directly in these subfolders, which are left out: 'neutral'" in caplog.text


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
def test_a_value_that_is_missing_or_no_text_is_refused_with_its_location(value):
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
    ("name", "content", "location"),
    [
        ("t.tsv", "text\tlabel\ttext\na\tx\tb\n", "line 1: 2 columns are called 'text'"),
        ("t.csv", "label,text,label\nx,a,y\n", "line 1: 2 columns are called 'label'"),
        ("t.jsonl", '{"text": "a"}\n{"text": "a", "text": "b"}\n', "line 2: the key 'text' occurs twice"),
    ],
)
def test_a_doubled_column_is_refused_by_its_name(tmp_path: Path, name, content, location):
    source = write(tmp_path / name, content)
    with pytest.raises(InputError, match=location):
        list(read_rows(source))


def test_a_doubled_column_of_parquet_or_of_the_settings_is_refused_by_its_name(tmp_path: Path):
    path = tmp_path / "t.parquet"
    parquet.write_table(pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], ["text", "text"]), path)
    with pytest.raises(InputError, match="2 columns are called 'text'"):
        list(read_rows(str(path)))
    with pytest.raises(InputError, match="2 columns are called 'x'"):
        list(read_rows(write(tmp_path / "t.csv", "a,b\n"), ["x", "x"]))


@pytest.mark.parametrize(
    "again", ["\ufefftext\tlabel", "Text\tLabel", "text \t label", '"text"\t"label"', '\ufeff"text"\t"label"']
)
def test_names_of_columns_of_a_joined_file_are_refused_however_they_are_written(tmp_path: Path, again):
    with pytest.raises(InputError, match=r"line 3: this row repeats the names of the columns"):
        list(read_rows(write(tmp_path / "t.tsv", f"text\tlabel\na\tx\n{again}\nb\ty\n")))
    # A text may be the name of its column if its label is not.
    assert len(list(read_rows(write(tmp_path / "t.tsv", "text\tlabel\na\tx\nText\ty\n")))) == 2


@pytest.mark.parametrize(("name", "separator"), [("t.csv", ","), ("t.tsv", "\t")])
def test_a_row_that_repeats_the_names_of_the_columns_is_refused_with_its_line(tmp_path: Path, name, separator):
    header, row = separator.join(("text", "label")), separator.join(("a", "x"))
    with pytest.raises(InputError, match=rf"{name}: line 3: this row repeats the names of the columns: files"):
        list(read_rows(write(tmp_path / name, f"{header}\n{row}\n{header}\n{row}\n")))
    with pytest.raises(
        InputError, match=r"line 1: this row repeats .*column_names is set for a file that has a header"
    ):
        list(read_rows(write(tmp_path / name, f"{header}\n{row}\n"), ["text", "label"]))
    # A text may be the word that names its column.
    assert len(list(read_rows(write(tmp_path / name, "text\na\ntext\n")))) == 2


@pytest.mark.parametrize("name", ["t.csv", "t.tsv"])
def test_blank_lines_before_the_names_of_the_columns_are_none(tmp_path: Path, name):
    separator = "," if name == "t.csv" else "\t"
    source = write(tmp_path / name, f"\n\r\ntext{separator}label\na{separator}x\n")
    assert [row.values for row in read_rows(source)] == [{"text": "a", "label": "x"}]


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


# -- line ends -----------------------------------------------------------------------------------------------------


def tags(source: str) -> list:
    """Read words and tags."""
    return [(sentence.words, sentence.tags, sentence.document) for sentence in read_tagged(source)]


def passages(source: str) -> list:
    """Read the segments of each document."""
    return [passage.segments for passage in read_passages(source, CorpusFormat())]


def documents_of_generator(source: str) -> list:
    """Read documents as the published generator does."""
    encoder = SimpleNamespace(tokenize=str.split)
    return _read_documents([source], encoder, "strict", None)


READERS = {
    "conll": ("Ann B-PER\nlives O\n\n-DOCSTART- O\n\nBo B-PER\n", tags),
    "conllu": ("# newdoc\n1\tAnn\t_\tPROPN\n2\tlives\t_\tVERB\n\n1\tBo\t_\tPROPN\n", tags),
    "tsv": ("text\tlabel\na b\tx\nc\ty\n", lambda source: [row.values for row in read_rows(source)]),
    "csv": ('text,label\n"a, b",x\nc,y\n', lambda source: [row.values for row in read_rows(source)]),
    "jsonl": ('{"text": "a"}\n\n{"text": "b"}\n', lambda source: [row.values for row in read_rows(source)]),
    "json": ('[\n {"a": 1},\n 2\n]\n', read_json),
    "txt": ("One is here.\nTwo is there.\n\nThree is.\nFour is.\n", passages),
    "label": ("NUM:count How many?\nHUM:ind Who?\n", lambda source: [e[1:] for e in read_trec(source, fine=True)]),
    "TXT": (
        '1\t"<e1>a</e1> <e2>b</e2>"\nOther\nComment:\n\n2\t"<e1>c</e1> <e2>d</e2>"\nOther\nComment: x\n',
        lambda source: [e[1:] for e in read_relations(source)],
    ),
    "in": ("a boat\na ship\n\na film\n", lambda source: [line for _, line in read_lines(source)]),
    "dev": ("index\ts\tlabel\n5\ta\t1\n7\tb\t0\n", lambda source: [e[1:] for e in read_glue(source, [1], 2, "01")]),
}
EQUAL_ENDS = ("\n", "\r\n", "\r", "\r\r\n")


@pytest.mark.parametrize("suffix", READERS)
def test_every_reader_gives_the_same_from_every_kind_of_line_end(tmp_path: Path, suffix):
    content, read = READERS[suffix]
    expected = read(write(tmp_path / f"lf.{suffix}", content))
    for end in EQUAL_ENDS:
        written = content.replace("\n", end)
        for name, text in (
            ("all", written),
            ("none_at_end", written.removesuffix(end)),
            ("mark", "\ufeff" + written),
        ):
            assert read(write(tmp_path / f"{name}.{suffix}", text)) == expected, (end, name)


@pytest.mark.parametrize("suffix", READERS)
def test_a_file_that_begins_with_cr_may_continue_with_lf_and_crlf(tmp_path: Path, suffix):
    content, read = READERS[suffix]
    first, rest = content.split("\n", 1)
    mixed = (
        first + "\r" + "".join(line + end for line, end in zip(rest.split("\n"), ["\n", "\r\n"] * 9, strict=False))
    )
    expected = read(write(tmp_path / f"lf.{suffix}", content))
    assert read(write(tmp_path / f"mixed.{suffix}", mixed.rstrip("\r\n") + "\n")) == expected


@given(
    pieces=st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"a", b"bc d", "é".encode()]), max_size=30),
    size=st.integers(8, 12),
)
def test_lines_of_any_ends_are_those_of_the_regular_expression(tmp_path_factory, pieces, size):
    content = b"x\ry" + b"".join(pieces)
    path = tmp_path_factory.mktemp("lines") / "c.txt"
    path.write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "MAX_PIECE", size)
        pieces = list(numbered_lines(str(path), cut=True))
    numbered: dict[int, str] = {}
    for number, piece in pieces:
        numbered[number] = numbered.get(number, "") + piece
    assert list(numbered.values()) == re.findall(r"[^\r\n]*(?:\r\n?|\n)|[^\r\n]+", content.decode())


OTHER_ENDS = "\x0b \x0c \x1c \x1d \x1e \x85 \u2028 \u2029"


def test_no_other_character_ends_a_line(tmp_path: Path):
    text = f"a {OTHER_ENDS} b."
    for suffix, content in (
        ("tsv", f"text\tlabel\n{text}\tx\n"),
        ("csv", f"text,label\n{text},x\n"),
        ("jsonl", json.dumps({"text": text, "label": "x"}, ensure_ascii=False) + "\n"),
    ):
        source = write(tmp_path / f"t.{suffix}", content)
        assert [row.values for row in read_rows(source)] == [{"text": text, "label": "x"}]
        assert passages(source) == [[text]]
    assert [line for _, line in read_lines(write(tmp_path / "t.txt", f"{text}\nc\n"))] == [text, "c"]
    words = text.replace(" ", "_")
    assert tags(write(tmp_path / "t.conll", f"{words} O\nb O\n")) == [([words, "b"], ["O", "O"], 0)]


@pytest.mark.parametrize("end", EQUAL_ENDS[:3])
@pytest.mark.parametrize("inside", EQUAL_ENDS[:3])
def test_line_ends_inside_a_quoted_field_are_kept(tmp_path: Path, end, inside):
    content = f'text,label{end}"a{inside}b",x{end}"{inside}",y{end}'
    source = write(tmp_path / "t.csv", content)
    assert [row.values["text"] for row in read_rows(source)] == [f"a{inside}b", inside]


def test_a_carriage_return_alone_ends_a_row_of_csv_outside_quotes(tmp_path: Path):
    source = write(tmp_path / "t.csv", 'text,label\na,x\r"b\rc",y\n')
    assert [row.values["text"] for row in read_rows(source)] == ["a", "b\rc"]


def test_a_carriage_return_inside_a_line_of_words_is_refused_with_its_line(tmp_path: Path):
    for name, content in (("t.conll", "a O\nb O\rc O\n"), ("t.conllu", "1\ta\t_\tX\n1\tb\t_\tX\r2\tc\t_\tX\n")):
        source = write(tmp_path / name, content)
        with pytest.raises(InputError, match=r"line 2: this line holds a carriage return"):
            tags(source)


def test_a_carriage_return_inside_other_lines_is_a_character_and_warned_about_once(tmp_path: Path, caplog):
    source = write(tmp_path / "t.txt", "a\nb\rc\nd\re\n")
    assert [line for _, line in read_lines(source)] == ["a", "b\rc", "d\re"]
    assert [record.getMessage() for record in caplog.records] == [
        f"{source}: line 2: this line holds a carriage return, though the first line ends in LF: "
        "it is read as a character of the line"
    ]


@pytest.mark.parametrize("separator", OTHER_ENDS.split(" "))
def test_a_file_of_one_line_with_other_separators_is_refused_or_warned_about(tmp_path: Path, caplog, separator):
    lines_of = ["Ann B-PER", "is O", "here O", ""]
    source = write(tmp_path / "t.conll", separator.join(lines_of))
    message = f"this file is a single line that holds U+{ord(separator):04X} several times, which does not end lines"
    with pytest.raises(InputError, match=re.escape(f"t.conll: {message}: end lines in LF")):
        list(read_tagged(source))
    assert len(list(read_lines(source))) == 1
    assert message in caplog.text
    caplog.clear()
    # In JSON they are characters of a text.
    row = {"text": separator.join(("a", "b", "c"))}
    if separator > "\x1f":
        assert [
            each.values for each in read_rows(write(tmp_path / "t.jsonl", json.dumps(row, ensure_ascii=False)))
        ] == [row]
    # One separator is a character, and so are several where there are lines.
    for content in (f"a{separator}b", f"a{separator}b{separator}c\nd"):
        list(read_lines(write(tmp_path / "t.txt", content)))
    assert not caplog.records


@pytest.mark.parametrize("rest", ["b\nc\nd\n", "b\r\nc\r\n"])
def test_a_first_line_that_ends_otherwise_than_a_later_one_is_warned_about_once(tmp_path: Path, caplog, rest):
    source = write(tmp_path / "t.txt", f"a\r{rest}")
    assert [line for _, line in read_lines(source)] == ["a", *rest.split()]
    assert caplog.text.count("t.txt: line 1 ends in a carriage return, and a later one in LF") == 1
    caplog.clear()
    assert len(list(read_lines(write(tmp_path / "t.txt", "a\rb\rc\r")))) == 3
    assert not caplog.records


def test_a_corpus_is_warned_about_once(tmp_path: Path, caplog):
    source = write(tmp_path / "t.txt", "The cat.\u2028The dog.\u2028The bird.\n")
    list(read_passages(source, CorpusFormat()))
    assert len(caplog.records) == 1


def test_the_published_generator_drops_carriage_returns_but_makes_no_line_of_a_file(tmp_path: Path):
    assert documents_of_generator(write(tmp_path / "a.txt", "a\rb c\n\nd\r\n")) == [[["ab", "c"]], [["d"]]]
    with pytest.raises(InputError, match=r"b\.txt: its lines end in carriage returns alone"):
        documents_of_generator(write(tmp_path / "b.txt", "a\rb\r\rc\r"))


@pytest.mark.parametrize("end", EQUAL_ENDS[:3])
def test_a_vocabulary_is_the_same_with_every_kind_of_line_end(tmp_path: Path, tokenizer, end):
    vocabulary = write(tmp_path / "vocab.txt", "".join(entry + end for entry in tokenizer.entries))
    assert load_tokenizer(vocabulary).entries == tokenizer.entries
