"""Each reader on small files in their published layout, and the locations that its errors name."""

import gzip
import json
import logging
import re
from pathlib import Path

import datasets
import pytest
from datasets import ClassLabel, Features, List, Value
from hypothesis import given
from hypothesis import strategies as st

from bert_lightning.data.datasets.examples import Answer, ChoiceQuestion
from bert_lightning.data.datasets.readers.ag_news import read_ag_news
from bert_lightning.data.datasets.readers.choices import read_choices
from bert_lightning.data.datasets.readers.glue import read_glue
from bert_lightning.data.datasets.readers.questions import read_questions
from bert_lightning.data.datasets.readers.relations import read_relations
from bert_lightning.data.datasets.readers.tagged import read_tagged
from bert_lightning.data.datasets.readers.texts import read_labelled_texts
from bert_lightning.data.datasets.readers.trec import read_trec
from bert_lightning.data.reading.tables import read_rows
from bert_lightning.errors import InputError
from tests.support.files import write


def write_json(path: Path, value) -> str:
    return write(path, json.dumps(value))


def write_jsonl(path: Path, *rows) -> str:
    return write(path, "".join(json.dumps(row) + "\n" for row in rows))


def write_features(folder: Path, rows, features) -> str:
    """Write a Parquet file as `datasets` does, in a folder that it reads by name, and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "train-00000-of-00001.parquet"
    datasets.Dataset.from_list(rows, features=Features(features)).to_parquet(path)
    return str(path)


def fails(message: str, read, *arguments, **options) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        list(read(*arguments, **options))


# Classes of the hub


@pytest.mark.parametrize("form", ["hub", "parquet"])
def test_classes_come_as_their_names_alone_in_lists_and_nested_and_no_class_as_none(tmp_path: Path, form):
    kind = ClassLabel(names=["no", "yes"])
    features = {
        "label": kind,
        "tags": List(kind),
        "deep": List({"kind": kind, "n": Value("int32")}),
        "words": List(Value("string")),
        "count": Value("int32"),
    }
    rows = [
        {"label": 1, "tags": [0, 1], "deep": [{"kind": 0, "n": 0}], "words": ["a"], "count": 1},
        {"label": -1, "tags": [-1, 1], "deep": [], "words": [], "count": -1},
        {"label": None, "tags": None, "deep": None, "words": None, "count": None},
    ]
    path = write_features(tmp_path / "set", rows, features)
    source = path if form == "parquet" else f"hub:{tmp_path / 'set'}"
    assert [row.values for row in read_rows(source)] == [
        {"label": "yes", "tags": ["no", "yes"], "deep": [{"kind": "no", "n": 0}], "words": ["a"], "count": 1},
        {"label": None, "tags": [None, "yes"], "deep": [], "words": [], "count": -1},
        {"label": None, "tags": None, "deep": None, "words": None, "count": None},
    ]


# Labelled texts


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.tsv", b'\xef\xbb\xbfa\tb\tl\tn\r\n"open\tsaid ""so""\tx\tq1\r\n  \t\r\nplain\t\ty\tq2\r\n'),
        ("t.csv", b'a,b,l,n\n"""open","said """"so""""",x,q1\nplain,,y,q2\n'),
        (
            "t.jsonl",
            b'{"a": "\\"open", "b": "said \\"\\"so\\"\\"", "l": "x", "n": "q1"}\n\n'
            b'{"a": "plain", "b": "", "l": "y", "n": "q2"}\n',
        ),
    ],
)
def test_pairs_labels_and_ids_are_the_same_from_every_table(tmp_path: Path, name, content):
    source = write(tmp_path / name, content)
    examples = list(read_labelled_texts(source, "a", "b", "l", id_column="n"))
    assert [example[1:] for example in examples] == [('"open', 'said ""so""', "x", "q1"), ("plain", "", "y", "q2")]
    assert examples[0].location.startswith(f"{source}: line")


def test_rows_without_an_id_are_counted_and_unlabelled_rows_need_no_label_column(tmp_path: Path):
    source = write(tmp_path / "t.tsv", "one\ntwo\n")
    examples = list(read_labelled_texts(source, "text", None, "label", ["text"], labelled=False))
    assert [example[1:] for example in examples] == [("one", None, None, "0"), ("two", None, None, "1")]


def test_several_labels_are_a_list_or_a_text_that_is_split(tmp_path: Path):
    split = write(tmp_path / "t.tsv", "text\tlabels\nx\tjoy, fear\ny\t\nz\t joy ,\n")
    listed = write_jsonl(
        tmp_path / "t.jsonl",
        {"text": "x", "labels": ["joy", "fear"]},
        {"text": "y", "labels": []},
        {"text": "z", "labels": ["joy"]},
    )
    hub = write_features(
        tmp_path / "p",
        [{"text": t, "labels": n} for t, n in (("x", [0, 1]), ("y", []), ("z", [0]))],
        {"text": Value("string"), "labels": List(ClassLabel(names=["joy", "fear"]))},
    )
    for source, separator in ((split, ","), (listed, None), (listed, ","), (hub, None)):
        examples = read_labelled_texts(source, "text", None, "labels", label_separator=separator)
        assert [example.label for example in examples] == [("joy", "fear"), (), ("joy",)]


def test_numeric_labels_are_numbers(tmp_path: Path):
    text = write(tmp_path / "t.tsv", "text\ty\na\t3.800\nb\t-1e2\nc\t 4\n")
    typed = write_jsonl(tmp_path / "t.jsonl", *({"text": "a", "y": y} for y in (3.8, -100, 4)))
    for source in (text, typed):
        assert [e.label for e in read_labelled_texts(source, "text", None, "y", numeric=True)] == [3.8, -100.0, 4.0]


@pytest.mark.parametrize("label", ["nan", "inf", "-Infinity", "five", "", "1_000", "0x1"])
def test_a_label_that_is_no_finite_number_is_named_with_its_line(tmp_path: Path, label):
    source = write(tmp_path / "t.tsv", f"text\ty\na\t1\nb\t{label}\n")
    fails(
        f"{source}: line 3: the label {label!r} is not a finite number",
        read_labelled_texts,
        source,
        "text",
        None,
        "y",
        numeric=True,
    )


@pytest.mark.parametrize(
    ("row", "options", "message"),
    [
        ({"text": "a", "label": None}, {}, "line 1: the column 'label' is null"),
        ({"text": "a", "label": " "}, {}, "line 1: the label in the column 'label' is empty"),
        ({"text": "a", "label": ["x", None]}, {}, "line 1: a label in the column 'label' is null"),
        ({"text": "a", "label": [1]}, {"numeric": True}, "line 1: the column 'label' holds a list"),
        ({"text": "a", "label": {"x": 1}}, {}, "line 1: the column 'label' holds an object"),
        ({"text": "a"}, {}, "line 1: there is no column 'label'; the columns are: text"),
        ({"label": "x"}, {}, "line 1: there is no column 'text'"),
        ({"text": "a", "label": "x"}, {"id_column": "key"}, "line 1: there is no column 'key'"),
    ],
)
def test_a_value_that_is_not_a_text_or_label_is_named_with_its_line(tmp_path: Path, row, options, message):
    source = write_jsonl(tmp_path / "t.jsonl", row)
    fails(f"{source}: {message}", read_labelled_texts, source, "text", None, "label", **options)


def test_subfolders_are_labels_that_take_turns_and_unsup_is_left_out(tmp_path: Path):
    for name in ("pos/1_9.txt", "pos/0_8.txt", "neg/0_2.txt", "neg/3_1.txt", "neg/4_1.txt", "unsup/0_0.txt", "x.txt"):
        write(tmp_path / name, f"Text of {name}.\nIts second line.\r\n")
    write(tmp_path / "pos/notes.md", "no text")
    examples = list(read_labelled_texts(str(tmp_path), "text", None, "label"))
    assert [(e.label, e.id) for e in examples] == [
        ("neg", "neg/0_2.txt"),
        ("pos", "pos/0_8.txt"),
        ("neg", "neg/3_1.txt"),
        ("pos", "pos/1_9.txt"),
        ("neg", "neg/4_1.txt"),
    ]
    assert examples[1].text == "Text of pos/0_8.txt.\nIts second line."
    assert examples[1].location == str(tmp_path / "pos/0_8.txt")
    assert {e.label for e in read_labelled_texts(str(tmp_path), "", None, "", labelled=False)} == {None}


def test_a_folder_without_texts_is_an_error(tmp_path: Path):
    write(tmp_path / "text.txt", "not in a subfolder")
    fails(
        f"{tmp_path}: there is no .txt file in a subfolder", read_labelled_texts, str(tmp_path), "text", None, "label"
    )
    fails("are names, not numbers", read_labelled_texts, str(tmp_path), "text", None, "label", numeric=True)


# GLUE, TREC, AG news


def test_a_glue_file_is_read_by_position_with_quotes_as_they_are(tmp_path: Path):
    source = write(tmp_path / "dev.txt", '\ufeffindex\ts1\ts2\tlabel\r\n7\t"a\tb "c"\t1\r\n\r\n9\td\te\t0\r\n')
    examples = [example[1:] for example in read_glue(source, (1, 2), -1, ("0", "1"))]
    assert examples == [('"a', 'b "c"', "1", "7"), ("d", "e", "0", "9")]
    source = write(tmp_path / "train.tsv", "index\t1\nc\t0\n")
    assert [e[1:] for e in read_glue(source, (0,), 1, ("0", "1"), header=False)] == [
        ("index", None, "1", "0"),
        ("c", None, "0", "1"),
    ]


def test_broken_rows_are_an_error_or_skipped_and_counted_in_one_warning(tmp_path: Path, caplog):
    source = write(tmp_path / "train.tsv", "id\tq\tis\n1\tone\t0\n2\tbroken\n3\tx\ty\t1\n4\tfour\t1\n")
    fails(
        f"{source}: line 3: this line has 2 columns, but the first line has 3", read_glue, source, (1,), 2, ("0", "1")
    )
    with caplog.at_level(logging.WARNING):
        examples = list(read_glue(source, (1,), 2, ("0", "1"), skip_malformed=True))
    assert [(e.text, e.id) for e in examples] == [("one", "1"), ("four", "4")]
    assert [record.getMessage() for record in caplog.records] == [
        f"{source}: 2 rows are skipped, because they do not have 3 columns"
    ]


def test_a_glue_label_that_is_none_of_the_task_and_a_missing_column_are_named(tmp_path: Path):
    source = write(tmp_path / "t.tsv", "s\tl\na\t1\nb\tmaybe\n")
    fails(f"{source}: line 3: the label 'maybe' is none of 0, 1", read_glue, source, (0,), 1, ("0", "1"))
    fails(f"{source}: line 3: the label 'maybe' is not a finite number", read_glue, source, (0,), 1, None)
    fails(f"{source}: line 1: this line has 2 columns, but column 3", read_glue, source, (3,), 1, ("0", "1"))
    fails(f"{source}: line 1: this line has 2 columns, but column 5", read_glue, source, (0,), 5, ("0", "1"))


def test_trec_is_read_as_latin_1_if_it_is_not_utf_8(tmp_path: Path):
    source = write(
        tmp_path / "train_5500.label",
        b"DESC:manner How did serfdom develop ?\nENTY:other Who sang \xf0\x42 ?\nHUM:ind Qui est C\xc3\xa9line ?\n",
    )
    assert [e[1:] for e in read_trec(source, fine=True)] == [
        ("How did serfdom develop ?", None, "DESC:manner", "0"),
        ("Who sang ðB ?", None, "ENTY:other", "1"),
        ("Qui est Céline ?", None, "HUM:ind", "2"),
    ]
    assert [e.label for e in read_trec(source, fine=False)] == ["DESC", "ENTY", "HUM"]


@pytest.mark.parametrize("line", ["DESC What ?", "DESC:manner", ":manner What ?", "DESC: What ?"])
def test_a_trec_line_of_another_form_is_named(tmp_path: Path, line):
    source = write(tmp_path / "t.label", f"HUM:ind Who ?\n{line}\n")
    fails(f"{source}: line 2: COARSE:fine and a question", read_trec, source, False)


def test_ag_news_joins_title_and_description(tmp_path: Path):
    source = write(tmp_path / "train.csv", '"3","Oil, again","Prices ""rose"" on\\Monday"\n"4","Chip","New"\n')
    assert [e[1:] for e in read_ag_news(source)] == [
        ('Oil, again Prices "rose" on\\Monday', None, "Business", "0"),
        ("Chip New", None, "Sci/Tech", "1"),
    ]
    source = write(tmp_path / "test.csv", '"1","a","b"\n"5","a","b"\n')
    fails(f"{source}: line 2: the class '5' is none of 1, 2, 3, 4", read_ag_news, source)


# Tagged sentences

CONLL = """-DOCSTART- -X- -X- O

EU NNP I-NP I-ORG
rejects VBZ I-VP O

-DOCSTART- -X- -X- O

" " O O
Peter NNP I-NP I-PER  \t
"""


def test_conll_columns_have_documents_and_any_column_can_be_the_tag(tmp_path: Path):
    source = write(tmp_path / "eng.train", CONLL.replace("\n", "\r\n"))
    assert [sentence[1:] for sentence in read_tagged(source)] == [
        (["EU", "rejects"], ["I-ORG", "O"], 1),
        (['"', "Peter"], ["O", "I-PER"], 2),
    ]
    assert [s.tags for s in read_tagged(source, 0, 1)] == [["NNP", "VBZ"], ['"', "NNP"]]
    assert [s.words for s in read_tagged(source, "1", "-2")] == [["NNP", "VBZ"], ['"', "NNP"]]
    assert [s.location for s in read_tagged(source)] == [f"{source}: line 3", f"{source}: line 8"]


def test_blank_lines_end_sentences_and_words_may_hold_spaces_between_tabs(tmp_path: Path):
    content = "\ufeffNew York\tB-LOC \n\t\nof\u00a0the O\t\r\n \r\n\n# O\n#tag\tO"
    source = write(tmp_path / "t.iob2", content)
    assert [sentence[1:] for sentence in read_tagged(source)] == [
        (["New York"], ["B-LOC"], 0),
        (["of\u00a0the"], ["O"], 0),
        (["#", "#tag"], ["O", "O"], 0),
    ]


def test_words_alone_are_unlabelled_sentences(tmp_path: Path):
    source = write(tmp_path / "t.txt", "-DOCSTART-\n\nA\nword\n\nmore\n")
    for columns in ((), (0, 3), (0, -1)):
        assert [s[1:] for s in read_tagged(source, *columns)] == [(["A", "word"], None, 1), (["more"], None, 1)]


def test_comments_before_a_sentence_are_no_words(tmp_path: Path):
    germeval = (
        "#\thttp://de.wikipedia.org [2009-10-17]\n1\tSchartau\tB-PER\tO\n2\tsagte\tO\tO\n\n#\tx [y]\n1\t#\tO\tO\n"
    )
    source = write(tmp_path / "dev.tsv", germeval)
    assert [s[1:3] for s in read_tagged(source, 1, 2)] == [(["Schartau", "sagte"], ["B-PER", "O"]), (["#"], ["O"])]
    licence = "# licence: free to use\n# made by hand\n\nA O\n\n# O\n"
    source = write(tmp_path / "licence.conll", licence)
    assert [s[1:3] for s in read_tagged(source, 0, 1)] == [(["A"], ["O"]), (["#"], ["O"])]
    ner = "# sent_id = 1\n# text = A b\n1\tA\tO\t-\t-\n2\tb\tO\t-\t-\n"
    assert next(read_tagged(write(tmp_path / "en.iob2", ner), 1, 2)).words == ["A", "b"]


@pytest.mark.parametrize(
    ("content", "columns", "message"),
    [
        ("a O\nb X O\n", (), "line 2: this line has 3 columns, but line 1 has 2"),
        ("a x O\n\nb\n", (), "line 3: this line has 1 columns, but line 1 has 3"),
        ("a\tO\n\tO\n", (), "line 2: the word is empty"),
        ("a\tx\tO\nb\t\tO\n", (0, 1), "line 2: the tag is empty"),
        ("a O\n", (2, 1), "line 1: there is no column 2; there are 2, counted from 0"),
        ("a O\n", (0, -3), "line 1: there is no column -3; there are 2, counted from 0"),
        ("a\n", (1, -1), "line 1: there is no column 1; there are 1"),
        ("a O\n", (1, -1), "line 1: column 1 would be both word and tag"),
        ("a O\n", (0, "ner"), "the columns of this file are given by their number, not by 'ner'"),
    ],
)
def test_columns_that_do_not_fit_are_named_with_their_line(tmp_path: Path, content, columns, message):
    source = write(tmp_path / "t.conll", content)
    fails(f"{source}: {message}", read_tagged, source, *columns)


CONLLU = """# newdoc id = one
# sent_id = 1
# text = Vámonos al mar
1-2\tVámonos\t_\t_\t_\t_\t_\t_\t_\t_
1\tVamos\tir\tVERB\tV\t_\t0\troot\t_\t_
2\tnos\tnosotros\tPRON\tP\t_\t1\tobj\t_\t_
2.1\tva\tir\tVERB\tV\t_\t_\t_\t1:conj\t_
3\tal mar\tmar\tNOUN\tN\t_\t1\tobl\t_\tSpaceAfter=No

# newdoc
1\t_\t_\tPUNCT\t_\t_\t0\troot\t_\t_
# newpar
2\t#\t_\tSYM\t_\t_\t1\tx\t_\t_

1\tx\t_\t_\t_\t_\t0\troot\t_\t_
"""


@pytest.mark.parametrize(
    ("word", "tag"), [("word", "pos"), ("Token", "Tag"), ("tokens", "ner_tags"), ("FORM", "UPOS")]
)
@pytest.mark.parametrize("blank", ["", "\n"])
def test_a_first_line_that_names_the_columns_is_no_word(tmp_path: Path, word, tag, blank):
    source = write(tmp_path / "t.tsv", f"{word}\t{tag}\n{blank}cats\tN\nsleep\tV\n")
    with pytest.raises(InputError, match=f"line 1: '{word}' and '{tag}' are names of columns: delete the line"):
        list(read_tagged(source))
    # Any of these may be words, also at the beginning.
    assert len(list(read_tagged(write(tmp_path / "t.tsv", f"{word}\tN\n\n{word}\t{tag}\n")))) == 2


def test_conllu_skips_comments_ranges_and_empty_nodes(tmp_path: Path):
    source = write(tmp_path / "es-ud-train.conllu", CONLLU)
    assert [sentence[1:] for sentence in read_tagged(source)] == [
        (["Vamos", "nos", "al mar"], ["VERB", "PRON", "NOUN"], 1),
        (["_", "#"], ["PUNCT", "SYM"], 2),
        (["x"], None, 2),
    ]
    assert next(read_tagged(source, "LEMMA", "DEPREL"))[1:3] == (["ir", "nosotros", "mar"], ["root", "obj", "obl"])
    assert next(read_tagged(source)).location == f"{source}: line 5"


def test_malformed_conllu_is_named_with_its_line(tmp_path: Path):
    source = write(tmp_path / "t.conllu", CONLLU + "\nword\t_\t_\tX\t_\t_\t0\troot\t_\t_\n")
    fails(f"{source}: line 17: the ID 'word' is none of CoNLL-U's", read_tagged, source)
    source = write(tmp_path / "s.conllu", "1\tx\t_\tX\t_\t_\t0\troot\t_\t_\n2\ty\t_\tX\n")
    fails(f"{source}: line 2: this line has 4 columns, but line 1 has 10", read_tagged, source)
    fails("by their number or by one of ID, FORM", read_tagged, source, "FORMS")


def test_rows_of_lists_are_sentences(tmp_path: Path):
    rows = [
        {"tokens": ["New", "York"], "ner_tags": [1, 2], "pos_tags": ["A", "B"]},
        {"tokens": ["x"], "ner_tags": [0]},
    ]
    tags = List(ClassLabel(names=["O", "B-LOC", "I-LOC"]))
    features = {"tokens": List(Value("string")), "ner_tags": tags, "pos_tags": List(Value("string"))}
    hidden = {"tokens": ["y"], "ner_tags": [-1], "pos_tags": None}
    path = write_features(tmp_path / "set", [*rows, hidden], features)
    for source in (path, f"hub:{tmp_path / 'set'}"):
        assert [s[1:] for s in read_tagged(source)] == [
            (["New", "York"], ["B-LOC", "I-LOC"], 0),
            (["x"], ["O"], 0),
            (["y"], None, 0),
        ]
        assert next(read_tagged(source, None, "pos_tags")).tags == ["A", "B"]
    source = write_jsonl(tmp_path / "t.jsonl", *rows, {"tokens": []}, {"tokens": ["z"]})
    assert [s.tags for s in read_tagged(source)] == [["1", "2"], ["0"], None]


@pytest.mark.parametrize(
    ("row", "columns", "message"),
    [
        ({"words": ["a"]}, (), "line 1: there is no column 'tokens'; the columns are: words"),
        ({"tokens": "a b"}, (), "line 1: the column 'tokens' is 'a b', but a list is expected"),
        ({"tokens": ["a", None]}, (), "line 1: item 1 of the column 'tokens' is null, but text"),
        ({"tokens": ["a"], "tags": ["O", "O"]}, (), "line 1: this row has 1 words, but 2 tags"),
        ({"tokens": ["a", "b"], "tags": ["O", None]}, (), "line 1: item 1 of the column 'tags' is null"),
        ({"tokens": ["a"], "tags": ["O"]}, ("tokens", "ner"), "line 1: there is no column 'ner'"),
    ],
)
def test_rows_that_are_no_sentences_are_named(tmp_path: Path, row, columns, message):
    source = write_jsonl(tmp_path / "t.jsonl", row)
    fails(f"{source}: {message}", read_tagged, source, *columns)


# All characters that a line can hold, except those that separate columns; -DOCSTART- and # have special meanings.
FIELDS = st.text(st.characters(exclude_characters=" \t\r\n", exclude_categories=["Cs"]), min_size=1).filter(
    lambda field: field not in ("-DOCSTART-", "#") and not field.startswith("\ufeff")
)
SENTENCES = st.lists(st.lists(st.tuples(FIELDS, FIELDS), min_size=1, max_size=4), max_size=5)


@given(
    st.lists(SENTENCES, max_size=3),
    st.sampled_from(["\t", " ", "   "]),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from(["", " ", " \t"]),
)
def test_written_sentences_are_read_back(tmp_path_factory, documents, separator, end, trailing):
    lines = []
    for sentences in documents:
        lines += ["-DOCSTART- -X- O", ""]
        for sentence in sentences:
            lines += [*(separator.join(pair) + trailing for pair in sentence), trailing]
    path = tmp_path_factory.getbasetemp() / "written.conll"
    read = list(read_tagged(write(path, end.join(lines))))
    assert [(list(zip(s.words, s.tags, strict=True)), s.document) for s in read] == [
        (sentence, number) for number, sentences in enumerate(documents, 1) for sentence in sentences
    ]


# Questions

CONTEXT = "Ann met Bob in Rome."
SQUAD = {
    "version": "v2.0",
    "data": [
        {
            "title": "Ann",
            "paragraphs": [
                {
                    "context": CONTEXT,
                    "qas": [
                        {
                            "id": "q1",
                            "question": "Who?",
                            "answers": [{"text": "Ann", "answer_start": 0}, {"text": "Bob", "answer_start": 8}],
                            "is_impossible": False,
                        },
                        {
                            "id": "q2",
                            "question": "Why?",
                            "answers": [],
                            "plausible_answers": [{"text": "Rome", "answer_start": 15}],
                            "is_impossible": True,
                        },
                    ],
                },
                {"context": "é", "qas": []},
            ],
        },
        {
            "paragraphs": [
                {"context": "x", "qas": [{"id": 3, "question": "?", "answers": [{"text": "y", "answer_start": 0}]}]}
            ]
        },
    ],
}


@pytest.mark.parametrize("name", ["t.json", "t.json.gz"])
def test_squad_of_both_versions_is_read(tmp_path: Path, name):
    content = json.dumps(SQUAD, indent=1).encode()
    source = write(tmp_path / name, gzip.compress(content) if name.endswith("gz") else content)
    questions = list(read_questions(source))
    assert [question[1:] for question in questions] == [
        ("q1", "Who?", CONTEXT, (Answer("Ann", 0), Answer("Bob", 8)), False, "Ann"),
        ("q2", "Why?", CONTEXT, (), True, "Ann"),
        ("3", "?", "x", (Answer("y", 0),), False, ""),
    ]
    assert questions[1].location == f"{source}: article 1 ('Ann'), paragraph 1, question 2 (id 'q2')"


def test_rows_of_questions_have_answers_in_either_form(tmp_path: Path):
    columns = {"text": ["Ann"], "answer_start": [0]}
    rows = [
        {"id": "a", "title": "T", "context": CONTEXT, "question": "Who?", "answers": columns},
        {
            "id": "b",
            "title": None,
            "context": CONTEXT,
            "question": "Why?",
            "answers": {"text": [], "answer_start": []},
        },
    ]
    features = {name: Value("string") for name in ("id", "title", "context", "question")}
    features["answers"] = {"text": List(Value("string")), "answer_start": List(Value("int32"))}
    pairs = [{**rows[0], "answers": [{"text": "Ann", "answer_start": 0}]}, {**rows[1], "answers": []}]
    sources = [
        write_features(tmp_path / "set", rows, features),
        f"hub:{tmp_path / 'set'}",
        write_jsonl(tmp_path / "a.jsonl", *rows),
        write_jsonl(tmp_path / "b.jsonl", *pairs),
    ]
    for source in sources:
        assert [question[1:] for question in read_questions(source)] == [
            ("a", "Who?", CONTEXT, (Answer("Ann", 0),), False, "T"),
            ("b", "Why?", CONTEXT, (), True, ""),
        ]


def test_unlabelled_questions_need_no_answers(tmp_path: Path):
    source = write_jsonl(tmp_path / "t.jsonl", {"id": "a", "context": "c", "question": "q"})
    (question,) = read_questions(source, labelled=False)
    assert question[1:] == ("a", "q", "c", (), False, "")
    fails(
        f"{source}: line 1 (id 'a'): there is no key 'answers'; the keys are: id, context, question",
        read_questions,
        source,
    )


def changed(path, value):
    """Return SQUAD with one value changed, or one key removed."""
    data = json.loads(json.dumps(SQUAD))
    inner = data
    for key in path[:-1]:
        inner = inner[key]
    if value is KeyError:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return data


QAS = ["data", 0, "paragraphs", 0, "qas"]
FIRST = "article 1 ('Ann'), paragraph 1, question 1"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["data"], KeyError, "no key 'data'; the keys are: version"),
        (["data"], {}, "the value of 'data' is an object, but a list is expected"),
        (["data", 1], "x", "article 2: the record is 'x', but an object"),
        (["data", 0, "title"], 7, "article 1: the value of 'title' is 7, but text"),
        (["data", 0, "paragraphs"], KeyError, "article 1: there is no key 'paragraphs'; the keys are: title"),
        (
            ["data", 0, "paragraphs", 1, "context"],
            KeyError,
            "article 1 ('Ann'), paragraph 2: there is no key 'context'",
        ),
        (["data", 0, "paragraphs", 1, "qas"], None, "article 1 ('Ann'), paragraph 2: the value of 'qas' is null"),
        ([*QAS, 0, "id"], KeyError, f"{FIRST}: there is no key 'id'"),
        ([*QAS, 0, "id"], 1.5, f"{FIRST}: the value of 'id' is 1.5, but text"),
        ([*QAS, 0, "question"], None, f"{FIRST} (id 'q1'): the value of 'question' is null, but text"),
        ([*QAS, 0, "question"], "\ud800", f"{FIRST} (id 'q1'): the value of 'question' holds half a character"),
        ([*QAS, 0, "answers"], KeyError, f"{FIRST} (id 'q1'): there is no key 'answers'"),
        ([*QAS, 0, "answers", 1, "text"], KeyError, f"{FIRST} (id 'q1'), answer 2: there is no key 'text'"),
        (
            [*QAS, 0, "answers", 1, "answer_start"],
            "8",
            f"{FIRST} (id 'q1'), answer 2: the value of 'answer_start' is",
        ),
        (
            [*QAS, 0, "answers", 1, "answer_start"],
            True,
            f"{FIRST} (id 'q1'), answer 2: the value of 'answer_start' is",
        ),
        ([*QAS, 0, "answers", 1, "answer_start"], -1, f"{FIRST} (id 'q1'), answer 2: answer_start is -1, but the"),
        ([*QAS, 0, "answers", 1, "answer_start"], 21, f"{FIRST} (id 'q1'), answer 2: answer_start is 21, but the"),
        (
            [*QAS, 0, "answers"],
            {"text": ["a"], "answer_start": []},
            f"{FIRST} (id 'q1'): this question has 1 answers, but 0 values",
        ),
        ([*QAS, 0, "is_impossible"], True, f"{FIRST} (id 'q1'): is_impossible is true, but there are 2 answers"),
        ([*QAS, 0, "answers", 0, "text"], " ", f"{FIRST} (id 'q1'), answer 1: the text is blank"),
        ([*QAS, 1, "is_impossible"], False, "question 2 (id 'q2'): is_impossible is false, but there are 0 answers"),
        ([*QAS, 1, "id"], "q1", f"question 2 (id 'q1'): the id 'q1' occurs twice, first in {FIRST} (id 'q1')"),
    ],
)
def test_an_error_in_squad_is_named_by_article_paragraph_and_id(tmp_path: Path, path, value, message):
    source = write_json(tmp_path / "t.json", changed(path, value))
    with pytest.raises(InputError) as error:
        list(read_questions(source))
    assert str(error.value).startswith(f"{source}: ")
    assert message in str(error.value)


def test_a_file_that_is_not_json_is_named_with_its_line(tmp_path: Path):
    source = write(tmp_path / "t.json", '{"data":\n [}')
    fails(f"{source}: line 2: not JSON: Expecting value, column 3", read_questions, source)


# Choices

SWAG = """,video-id,fold-ind,startphrase,sent1,sent2,gold-source,ending0,ending1,ending2,ending3,label
0,anetv_jkn6uvmqwh4,3416,"A drum line passes by. It","A drum ""line"" passes by.",It,gold,a,"b, c",d,e,1
"""


def test_swag_is_read_with_and_without_labels(tmp_path: Path):
    expected = ChoiceQuestion("", "0", 'A drum "line" passes by.', "It", ("a", "b, c", "d", "e"), 1)
    source = write(tmp_path / "train.csv", SWAG)
    assert list(read_choices(source)) == [expected._replace(location=f"{source}: line 2")]
    source = write(tmp_path / "test.csv", SWAG.replace(",label\n", "\n").replace(",1\n", "\n"))
    assert list(read_choices(source)) == [expected._replace(location=f"{source}: line 2", label=None)]
    source = write(tmp_path / "empty.csv", SWAG.replace(",1\n", ",\n"))
    assert [choice.label for choice in read_choices(source)] == [None]
    names = ["sent1", "sent2", *(f"ending{n}" for n in range(4))]
    row = dict(zip(names, [expected.context, expected.question, *expected.choices], strict=True))
    features = {**dict.fromkeys(names, Value("string")), "label": ClassLabel(names=["0", "1", "2", "3"])}
    write_features(tmp_path / "set", [{**row, "label": 1}, {**row, "label": -1}], features)
    assert [(c.choices, c.label) for c in read_choices(f"hub:{tmp_path / 'set'}")] == [
        (expected.choices, 1),
        (expected.choices, None),
    ]


DREAM = [
    [
        ["M: Hi.", "W: Hello."],
        [
            {"question": "Who spoke first?", "choice": ["The man.", "The woman.", "Nobody."], "answer": "The man."},
            {"question": "Who then?", "choice": ["The man.", "The woman.", "Nobody."], "answer": "The woman."},
        ],
        "4-199",
    ]
]


def test_dream_is_read_from_its_file_and_from_rows(tmp_path: Path):
    source = write_json(tmp_path / "train.json", DREAM)
    choices = ("The man.", "The woman.", "Nobody.")
    assert [choice[1:] for choice in read_choices(source)] == [
        ("4-199-0", "M: Hi.\nW: Hello.", "Who spoke first?", choices, 0),
        ("4-199-1", "M: Hi.\nW: Hello.", "Who then?", choices, 1),
    ]
    source = write_jsonl(tmp_path / "t.jsonl", {"dialogue": DREAM[0][0], **DREAM[0][1][1]})
    assert [choice[1:] for choice in read_choices(source)] == [("0", "M: Hi.\nW: Hello.", "Who then?", choices, 1)]


RACE = {
    "answers": ["D", "A"],
    "options": [["a", "b", "c", "d"], ["e", "f", "g", "h"]],
    "questions": ["First _ ?", "Second?"],
    "article": "An article.\nIts end.",
    "id": "high1.txt",
}


def test_race_is_read_from_its_folder_and_from_rows(tmp_path: Path):
    for name in ("train/middle/1.txt", "train/high/1.txt", "train/high/10.txt"):
        write_json(tmp_path / name, RACE)
    write(tmp_path / "train/.DS_Store", "x")
    examples = list(read_choices(str(tmp_path / "train")))
    assert [e.id for e in examples] == [f"{n}-{q}" for n in ("high/1", "high/10", "middle/1") for q in (0, 1)]
    assert examples[0][2:] == (RACE["article"], "First _ ?", ("a", "b", "c", "d"), 3)
    assert examples[1].location == f"{tmp_path / 'train/high/1.txt'}, question 2"
    row = {"article": "x", "question": "y", "options": ["a", "b"], "answer": "B"}
    assert [e[1:] for e in read_choices(write_jsonl(tmp_path / "t.jsonl", row))] == [("0", "x", "y", ("a", "b"), 1)]


def test_your_own_choices_are_labelled_by_number_or_text(tmp_path: Path):
    common = {"context": "c", "choices": ["1", "0"]}
    rows = [{"label": 1}, {"label": "1"}, {"label": "0", "id": 7, "question": "q"}, {}, {"label": None}]
    source = write_jsonl(tmp_path / "t.jsonl", *({**common, **row} for row in rows))
    assert [(e.id, e.question, e.label) for e in read_choices(source)] == [
        ("0", "", 1),
        # The text of a choice comes before a number.
        ("1", "", 0),
        ("7", "q", 1),
        ("3", "", None),
        ("4", "", None),
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"context": "c", "choices": ["a", "b"], "label": 2}, "line 1: the label '2' is not a choice; there are 2"),
        ({"context": "c", "choices": ["a", "b"], "label": -2}, "line 1: the label '-2' is not a choice"),
        ({"context": "c", "choices": ["a", "b"], "label": "x"}, "line 1: the label 'x' is not a choice"),
        (
            {"context": "c", "choices": ["a"], "label": 0},
            "line 1: this question has 1 choices; at least two are needed",
        ),
        ({"context": "c", "choices": "ab"}, "line 1: the value of 'choices' is 'ab', but a list"),
        ({"context": "c"}, "line 1: there is no key 'choices'; the keys are: context"),
        ({"choices": ["a", "b"]}, "line 1: there is no key 'context'"),
        ({"context": "c", "question": 1, "choices": ["a", "b"]}, "line 1: the value of 'question' is 1, but text"),
        (
            {"article": "a", "question": "q", "options": ["x", "y"], "answer": "C"},
            "line 1: the answer is 'C', but one",
        ),
        ({"sent1": "a", "ending0": "q", "ending1": "x"}, "line 1: there is no column 'sent2'"),
        ({"sent1": "a", "sent2": "b", "ending0": "q", "ending1": "x", "label": 2}, "line 1: the label '2' is no"),
        ({"dialogue": "x", "question": "q"}, "line 1: the dialogue is 'x', but a list"),
    ],
)
def test_choices_that_do_not_fit_are_named_with_their_line(tmp_path: Path, row, message):
    source = write_jsonl(tmp_path / "t.jsonl", row)
    fails(f"{source}: {message}", read_choices, source)


def test_dream_and_race_files_that_do_not_fit_are_named(tmp_path: Path):
    where = "dialogue 1 (id '4-199'), question 1"
    for change, message in (
        ({"answer": "Both."}, f"{where}: the answer 'Both.' is none of the choices"),
        ({"choice": None}, f"{where}: the value of 'choice' is null"),
    ):
        turns, questions, identifier = DREAM[0]
        source = write_json(tmp_path / "t.json", [[turns, [{**questions[0], **change}], identifier]])
        fails(f"{source}: {message}", read_choices, source)
    source = write_json(tmp_path / "t.json", [[["a"], []]])
    fails(f"{source}: dialogue 1: turns, questions and an id are expected", read_choices, source)
    fails(
        f"{tmp_path}/none: this folder holds no .txt file",
        read_choices,
        str((tmp_path / "none").mkdir() or tmp_path / "none"),
    )
    for change, message in (
        ({"answers": ["A"]}, ": this file has 2 questions, 2 lists of options and 1 answers"),
        ({"answers": ["A", "E"]}, ", question 2: the answer is 'E', but one of A, B, C, D"),
        ({"questions": ["a", None]}, ", question 2: the question is null"),
    ):
        source = write_json(tmp_path / "race/1.txt", {**RACE, **change})
        fails(f"{source}{message}", read_choices, str(tmp_path / "race"))


# Relations

SEMEVAL = (
    '1\t"The <e1>configuration</e1> of antenna <e2>elements</e2>."\r\n'
    "Component-Whole(e2,e1)\r\n"
    "Comment: Not a collocation: there is an association\r\n"
    "that goes on\r\n"
    "and on.\r\n"
    "\r\n"
    '2\t"The "<e2> old child </e2>" was in a <e1>cradle</e1>"\r\n'
    "Other\r\n"
    "Comment:\r\n"
)


def entities(example):
    return example.text[slice(*example.first)], example.text[slice(*example.second)]


def test_semeval_is_read_with_its_relations_and_without(tmp_path: Path):
    source = write(tmp_path / "TRAIN_FILE.TXT", SEMEVAL)
    first, second = read_relations(source)
    assert first[1:] == ("1", "The configuration of antenna elements.", (4, 17), (29, 37), "Component-Whole(e2,e1)")
    assert (second.id, second.text, second.label) == ("2", 'The " old child " was in a cradle', "Other")
    assert entities(first) == ("configuration", "elements")
    assert entities(second) == ("cradle", "old child")
    assert second.location == f"{source}: line 7"
    sentences = "".join(line for line in SEMEVAL.splitlines(keepends=True) if line[0].isdigit())
    unlabelled = list(read_relations(write(tmp_path / "TEST_FILE.txt", sentences)))
    assert [e[2:] for e in unlabelled] == [(*e[2:5], None) for e in (first, second)]


def test_marked_rows_are_read_whatever_the_columns_are_called(tmp_path: Path):
    rows = [{"sentence": "<e2>b</e2><e1>a</e1>", "relation": "X(e1,e2)"}, {"sentence": "<e1>a</e1> <e2>b</e2>"}]
    examples = list(read_relations(write_jsonl(tmp_path / "t.jsonl", *rows)))
    assert [e[1:] for e in examples] == [("0", "ba", (1, 2), (0, 1), "X(e1,e2)"), ("1", "a b", (0, 1), (2, 3), None)]
    source = write(tmp_path / "t.tsv", "s\tr\n<e1>a</e1> <e2>b</e2>\tX\n")
    assert next(read_relations(source, "s", "r")).label == "X"


TACRED = {
    "id": "e7",
    "relation": "per:title",
    "token": ["He", "is", "a", "prime", "minister"],
    "subj_start": 0,
    "subj_end": 0,
    "obj_start": 3,
    "obj_end": 4,
}


def test_tacred_words_become_text_with_character_ranges(tmp_path: Path):
    sources = [write_json(tmp_path / "train.json", [TACRED]), write_jsonl(tmp_path / "t.jsonl", TACRED)]
    for source in sources:
        (example,) = read_relations(source)
        assert example[1:] == ("e7", "He is a prime minister", (0, 2), (8, 22), "per:title")


@given(st.data())
def test_ranges_of_joined_words_hold_these_words(tmp_path_factory, data):
    words = data.draw(st.lists(st.text("ab", min_size=1, max_size=3), min_size=1, max_size=6))
    ends = st.integers(0, len(words) - 1)
    spans = [sorted(data.draw(st.tuples(ends, ends))) for _ in range(2)]
    keys = ("subj_start", "subj_end", "obj_start", "obj_end")
    row = {"token": words, **dict(zip(keys, [*spans[0], *spans[1]], strict=True))}
    (example,) = read_relations(write_jsonl(tmp_path_factory.getbasetemp() / "tacred.jsonl", row))
    assert entities(example) == tuple(" ".join(words[a : b + 1]) for a, b in spans)
    assert [len(example.text[: s[0]].split()) for s in (example.first, example.second)] == [a for a, _ in spans]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<e1>a</e1> b</e2>", "<e2> occurs 0 times, but once is expected"),
        ("<e1>a</e1> <e2>b</e2> <e1>c</e1>", "<e1> occurs 2 times, but once is expected"),
        ("<e1>a <e2>b</e2></e1>", "the markers are nested or closed before they are opened: <e1> <e2> </e2> </e1>"),
        ("</e1>a<e1> <e2>b</e2>", "the markers are nested or closed before they are opened"),
        ("<e1>a <e2>b</e1> c</e2>", "the markers are nested or closed before they are opened"),
        ("<e1> </e1> <e2>b</e2>", "the entity e1 is empty"),
    ],
)
def test_markers_that_mark_no_two_entities_are_named_with_their_line(tmp_path: Path, text, message):
    source = write(tmp_path / "t.txt", f'1\t"<e1>a</e1> <e2>b</e2>"\nOther\nComment:\n\n2\t"{text}"\nOther\n')
    fails(f"{source}: line 5: {message}", read_relations, source)
    source = write_jsonl(tmp_path / "t.jsonl", {"text": text, "label": "x"})
    fails(f"{source}: line 1: {message}", read_relations, source)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("Other\n", 1),
        ("Comment: x\n", 1),
        ('1\t"<e1>a</e1> <e2>b</e2>"\nOther\nOther\n', 3),
        ('1\t"<e1>a</e1> <e2>b</e2>"\n2 "<e1>a</e1> <e2>b</e2>"\n', 2),
    ],
)
def test_lines_out_of_place_in_semeval_are_named(tmp_path: Path, content, line):
    source = write(tmp_path / "t.txt", content)
    fails(f"{source}: line {line}: a number, a tab and a", read_relations, source)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"obj_end": 5}, "obj_start 3 and obj_end 5 are not a range of the 5 words"),
        ({"subj_start": 1}, "subj_start 1 and subj_end 0 are not a range"),
        ({"subj_start": -1}, "subj_start -1 and"),
        ({"subj_start": "0"}, "the value of 'subj_start' is '0', but a whole number"),
        ({"token": "He is"}, "the value of 'token' is 'He is', but a list"),
        ({"token": ["He", 1]}, "item 1 of the value of 'token' is 1, but text"),
        ({"relation": ["a"]}, "the column 'relation' holds a list"),
    ],
)
def test_tacred_rows_that_do_not_fit_are_named(tmp_path: Path, change, message):
    source = write_jsonl(tmp_path / "t.jsonl", {**TACRED, **change})
    fails(f"{source}: line 1: {message}", read_relations, source)
    source = write_json(tmp_path / "t.json", [TACRED, {**TACRED, **change}])
    fails(f"{source}: item 2: {message}", read_relations, source)


# Real files


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("split", "num_sentences", "num_entities"), [("train", 3394, 1975), ("dev", 1009, 836), ("test", 1287, 1079)]
)
def test_wnut17_has_its_published_number_of_sentences_and_entities(real_data, split, num_sentences, num_entities):
    sentences = list(read_tagged(str(real_data / f"ner/wnut17/{split}.conll")))
    assert len(sentences) == num_sentences
    assert sum(tag.startswith("B-") for sentence in sentences for tag in sentence.tags) == num_entities


@pytest.mark.real_data
@pytest.mark.parametrize(("split", "num_questions"), [("train", 87599), ("dev", 10570)])
def test_squad_has_its_published_number_of_questions(real_data, split, num_questions):
    questions = list(read_questions(str(real_data / f"squad/{split}-v1.1.json")))
    assert len(questions) == num_questions
    assert all(q.context[a.start :].startswith(a.text) for q in questions for a in q.answers)
    assert not any(q.is_impossible for q in questions)
