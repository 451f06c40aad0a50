"""Labels in another encoding, in several spellings, or hidden."""

import json
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from bert_lightning.data.datasets.examples import LabelledText
from bert_lightning.data.datasets.labels import refuse_indicators, warn_of_look_alikes
from bert_lightning.data.datasets.readers.tagged import read_tagged
from bert_lightning.errors import InputError
from bert_lightning.tasks.multiple_choice.data import MultipleChoiceDataModule
from bert_lightning.tasks.multiple_choice.settings import MultipleChoiceData
from bert_lightning.tasks.question_answering.data import QuestionAnsweringDataModule
from bert_lightning.tasks.question_answering.settings import QuestionAnsweringData
from bert_lightning.tasks.relation_classification.data import RelationClassificationDataModule, with_markers
from bert_lightning.tasks.relation_classification.settings import RelationClassificationData
from bert_lightning.tasks.text_classification.data import TextClassificationDataModule
from bert_lightning.tasks.text_classification.settings import TextClassificationData
from bert_lightning.text.wordpiece import WordPieceTokenizer

NAN = float("nan")


def write(path: Path, content: str) -> str:
    """Write a file and return its name."""
    path.write_text(content, encoding="utf-8")
    return str(path)


def jsonl(path: Path, labels: list, key: str = "label", **other) -> str:
    """Write a row for each label; the row has no such key if the label is KeyError."""
    rows = [{"text": "the cat", **other, **({} if label is KeyError else {key: label})} for label in labels]
    return write(path, "".join(json.dumps(row) + "\n" for row in rows))


def texts(tokenizer, split=None, labels=None, **settings) -> TextClassificationDataModule:
    """Build the data of text classification."""
    return TextClassificationDataModule(TextClassificationData(**settings), tokenizer, split=split, labels=labels)


# -- indicators ----------------------------------------------------------------------------------------------------

ONE_HOT = [
    [[1, 0, 1], [0, 1, 0], [0, 0, 0]],
    [[1, 0], [0, 1]],
    [[1.0, 0.0], [0.0, 1.0]],
    [[True, False], [False, True]],
    [["0", "1"], ["1", "0"]],
    [[1, -1, 0], [0, 1, -1]],
    [["[1", "0", "1]"], ["[0", "1", "0]"]],
    [[1], [0]],
    [[0.3, 0.7], [1.0, 0.0]],
    [["yes", "no"], ["no", "yes"]],
    [["T", "F"], ["F", "T"]],
    [["101"], ["010"]],
    [["tensor([1", "0])"], ["tensor([0", "1])"]],
    [["array([1.", "0.])"], ["array([0.", "1.])"]],
]
NAMES = [
    [["0.5"], ["1"]],
    [["1"], ["0", "1"]],
    [["0"], ["2"]],
    [["a", "b"], ["a", "c"]],
    [[], ["0", "1"]],
    [["1", "2"], ["0", "1"]],
    [["yes"], ["no"]],
    [["101"], ["110"]],
    [["010"], ["101", "010"]],
]


def examples(rows: list) -> list[LabelledText]:
    """Make a text for each row of labels."""
    return [LabelledText(f"line {n}", "a", None, tuple(map(str, row)), "") for n, row in enumerate(rows, 1)]


@pytest.mark.parametrize("rows", ONE_HOT)
def test_rows_of_one_length_over_0_and_1_are_refused_as_indicators(rows):
    with pytest.raises(InputError, match=r"line 1: .* indicators, one per class; labels are the names"):
        refuse_indicators(examples(rows))


@pytest.mark.parametrize("rows", NAMES)
def test_names_that_are_numbers_are_names(rows):
    refuse_indicators(examples(rows))


def test_indicators_of_several_lengths_are_found_by_what_repeats_and_other_names_may_not_repeat_either():
    with pytest.raises(InputError, match=r"line 2: 1, 0, 1 are indicators"):
        refuse_indicators(examples([[1], [1, 0, 1]]))
    with pytest.raises(InputError, match=r"line 1: the label 'sport' occurs twice in one row"):
        refuse_indicators(examples([["sport", "news", "sport"]]))


def test_rows_over_0_and_1_are_names_if_training_has_classes_of_these_names():
    refuse_indicators(examples([[0, 1]]), ["0", "1", "2"])
    with pytest.raises(InputError, match="indicators"):
        refuse_indicators(examples([[0, 1]]), ["a", "b"])


@pytest.mark.parametrize("name", ["t.jsonl", "t.parquet", "t.csv", "t.tsv"])
@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_every_split_of_every_format_refuses_indicators(tmp_path: Path, tokenizer, name, split):
    rows, path = [[1, 0, 1], [0, 1, 0]], tmp_path / name
    if path.suffix == ".parquet":
        parquet.write_table(pa.table({"text": ["a", "b"], "label": rows}), path)
    elif path.suffix == ".jsonl":
        jsonl(path, rows)
    else:
        cells = [("text", "label"), *(("a", "|".join(map(str, row))) for row in rows)]
        write(path, "".join(("," if path.suffix == ".csv" else "\t").join(row) + "\n" for row in cells))
    good = jsonl(tmp_path / "good.jsonl", [["x"], ["y", "z"]])
    files = {"train": good, "validation": good, split: str(path)}
    known = {"split": "test", "labels": ["x", "y", "z"]} if split == "test" else {}
    with pytest.raises(InputError, match=rf"{name}: (line|row) \d: 1, 0, 1 are indicators"):
        texts(tokenizer, problem="multi-label", label_separator="|", **files, **known)


def test_a_file_with_one_column_per_class_is_refused_by_its_columns(tmp_path: Path, tokenizer):
    train = write(tmp_path / "t.csv", "text,toxic,rude\na,1,0\nb,0,1\n")
    with pytest.raises(
        InputError, match=r"line 2: there is no column 'label'; the columns toxic, rude hold 0 and 1\. One column"
    ):
        texts(tokenizer, train=train, problem="multi-label", label_separator="|")
    with pytest.raises(InputError, match=r"line 2: .*indicators, one per class"):
        texts(tokenizer, train=train, problem="multi-label", label_separator="|", label_column="toxic")
    # One such column alone is a problem with two classes.
    assert texts(tokenizer, train=train, label_column="toxic").labels == ["0", "1"]


# -- names that look alike -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "named"),
    [
        (["good", " good", "bad"], "'good' and ' good'"),
        (["1", "1.0", "2"], "'1' and '1.0'"),
        (["01", "1", "2"], "'01' and '1'"),
        (["a b", "a\xa0b"], "'a b' and 'a\\xa0b'"),
        (["\xe9", "e\u0301"], "'\xe9' and 'e\u0301'"),
        (["nan", "good"], "'nan' is a class; it looks like a missing value"),
        (["1 0 1", "0 1 0"], "'1 0 1', '0 1 0' are single classes; they look like indicators"),
        (["[1, 0]", "[0, 1]"], "look like indicators"),
        (["001", "010", "100"], "look like indicators"),
        (["Good", "good", "bad"], "'Good' and 'good' differ only in blanks, case or spelling"),
        (["good", "good\u200b"], "'good' and 'good\\u200b'"),
        (["good", '"good"', "bad"], "'good' and '\"good\"'"),
        (["not_entailment", "not-entailment"], "'not_entailment' and 'not-entailment'"),
        (["cat", "c\u0430t"], "'cat' and 'c\u0430t'"),
        (["['news', 'sport']", "['news']"], "it looks like a list of several"),
        (["-1", "0", "1", "2"], "'-1' is a class; next to classes from 0 on, it often means that there is no label"),
        (["-100", "0", "1"], "'-100' is a class; it looks like a missing value"),
    ],
)
def test_classes_that_are_probably_one_or_none_are_warned_about(caplog, labels, named):
    warn_of_look_alikes(labels, "train.tsv")
    (record,) = caplog.records
    assert record.getMessage().startswith("train.tsv: ")
    assert named in record.getMessage()


@pytest.mark.parametrize(
    "labels",
    [
        *(
            ["a", "A"],
            ["1", "2"],
            ["1_0", "10"],
            ["none", "O"],
            ["0", "1"],
            ["1-0", "0-1"],
            ["-1", "0", "1"],
            ["-1", "1"],
        ),
        *(
            ["A", "A-", "A+"],
            ['"', "'", "-", "_"],
            ["100", "101", "110"],
            ["\u043a\u043e\u0442", "cat"],
            ["[a]", "[b]"],
        ),
    ],
)
def test_classes_that_differ_are_not_warned_about(caplog, labels):
    warn_of_look_alikes(labels, "train.tsv")
    assert not caplog.records


def test_training_warns_about_classes_that_look_alike(tmp_path: Path, tokenizer, caplog):
    texts(tokenizer, train=jsonl(tmp_path / "t.jsonl", ["good", "good ", "bad"]))
    assert "'good' and 'good '" in caplog.text


def test_pairs_without_agreement_are_left_out_of_every_split_with_a_warning(tmp_path: Path, tokenizer, caplog):
    train = jsonl(tmp_path / "t.jsonl", ["entailment", "-", "neutral", "contradiction", "-"])
    data = texts(tokenizer, train=train, validation=train)
    assert data.labels == ["contradiction", "entailment", "neutral"]
    assert [example.id for example in data.splits["validation"].examples] == ["0", "2", "3"]
    assert data.splits["validation"].subsets[0].stop == 3
    assert caplog.text.count("left out: 2 pairs with the label '-', which says") == 2
    scored = texts(tokenizer, "test", data.labels, test=train)
    assert len(scored.splits["test"].examples) == 3


def test_a_dash_is_a_class_beside_other_names(tmp_path: Path, tokenizer):
    train = jsonl(tmp_path / "t.jsonl", ["-", "+", "neutral"])
    assert texts(tokenizer, train=train).labels == ["+", "-", "neutral"]


@pytest.mark.parametrize("key", ["class_weights", "positive_label"])
def test_a_name_that_yaml_takes_for_a_truth_value_is_named_with_the_remedy(tmp_path: Path, tokenizer, key):
    value = {"True": 2.0} if key == "class_weights" else "True"
    with pytest.raises(
        InputError, match=rf"data\.{key}: 'True' is not a label; known: no, yes; YAML reads yes, on and true"
    ):
        texts(tokenizer, train=jsonl(tmp_path / "t.jsonl", ["yes", "no"]), **{key: value})


# -- hidden labels -------------------------------------------------------------------------------------------------

HIDDEN = [[None, None], ["", ""], [" ", "\t"], [-1, -1], ["-1", "-1"], [NAN, NAN], [None, ""], [KeyError, KeyError]]
HIDDEN_LISTS = [[[], []], [[None], [None, None]], [[-1, -1], [-1, -1]]]


@pytest.mark.parametrize("labels", HIDDEN)
def test_a_test_file_of_texts_without_a_filled_label_is_unlabelled(tmp_path: Path, tokenizer, labels):
    for kind in ("single-label", "multi-label", "regression"):
        if kind == "regression" and labels[0] in (-1, "-1"):
            continue
        data = texts(tokenizer, "test", ["a", "b"], test=jsonl(tmp_path / "t.jsonl", labels), problem=kind)
        assert not data.splits["test"].is_labelled


@pytest.mark.parametrize("labels", HIDDEN_LISTS)
def test_a_test_file_of_lists_without_a_label_is_unlabelled(tmp_path: Path, tokenizer, labels):
    test = jsonl(tmp_path / "t.jsonl", labels)
    assert not texts(tokenizer, "test", ["a", "b"], test=test, problem="multi-label").splits["test"].is_labelled


@pytest.mark.parametrize("cell", ["", " ", '""', "-1"])
@pytest.mark.parametrize(("name", "separator"), [("t.csv", ","), ("t.tsv", "\t")])
def test_empty_cells_of_a_test_table_are_hidden_labels(tmp_path: Path, tokenizer, cell, name, separator):
    if cell == '""' and name == "t.tsv":
        cell = ""
    test = write(tmp_path / name, f"text{separator}label\na{separator}{cell}\nb{separator}{cell}\n")
    assert not texts(tokenizer, "test", ["a", "b"], test=test).splits["test"].is_labelled


def test_minus_one_is_a_label_if_it_is_a_class_or_a_number(tmp_path: Path, tokenizer):
    test = jsonl(tmp_path / "t.jsonl", [-1, -1])
    assert texts(tokenizer, "test", ["-1", "1"], test=test).splits["test"].labels.tolist() == [0, 0]
    assert not texts(tokenizer, "test", ["score"], test=test, problem="regression").splits["test"].is_labelled
    test = jsonl(tmp_path / "t.jsonl", [-1, 2])
    data = texts(tokenizer, "test", ["score"], test=test, problem="regression")
    assert data.splits["test"].labels.tolist() == [-1, 2]


@pytest.mark.parametrize("labels", [[-1.0, -1.0], ["-1", "-1.0"]])
def test_minus_one_in_every_row_hides_the_numbers_of_a_regression(tmp_path: Path, tokenizer, labels):
    test = jsonl(tmp_path / "t.jsonl", labels)
    assert not texts(tokenizer, "test", ["score"], test=test, problem="regression").splits["test"].is_labelled


def test_a_number_beyond_float32_is_refused_with_its_line(tmp_path: Path, tokenizer):
    with pytest.raises(
        InputError, match=r"line 2: the label '1e\+39' is beyond 3\.4e\+38, the largest number of a float32"
    ):
        texts(tokenizer, train=jsonl(tmp_path / "t.jsonl", [3e38, 1e39]), problem="regression")


@pytest.mark.parametrize("labels", [["x", ""], ["x", " "], [""]])
def test_an_empty_name_in_a_list_of_labels_is_refused_with_its_line(tmp_path: Path, tokenizer, labels):
    with pytest.raises(InputError, match=r"line 2: a label in the column 'label' is empty; \[\] stands for no label"):
        texts(tokenizer, train=jsonl(tmp_path / "t.jsonl", [["x"], labels]), problem="multi-label")


@pytest.mark.parametrize("cell", ["['news', 'sport']", '["news", "sport"]', "('news',)", "['news' 'sport']"])
def test_a_printed_list_of_names_is_refused_with_the_way_to_write_it(tmp_path: Path, tokenizer, cell):
    train = write(tmp_path / "t.tsv", f"text\tlabel\na\tnews\nb\t{cell}\n")
    with pytest.raises(
        InputError, match=r"line 3: the column 'label' holds a printed list, .* write the names with ','"
    ):
        texts(tokenizer, train=train, problem="multi-label", label_separator=",")
    # Names in brackets are names.
    train = write(tmp_path / "t.tsv", "text\tlabel\na\t[news],[sport]\nb\t[news]\n")
    data = texts(tokenizer, train=train, problem="multi-label", label_separator=",")
    assert data.labels == ["[news]", "[sport]"]


@pytest.mark.parametrize("header", ["text,Label", "text, label", "text,LABEL "])
def test_a_test_file_whose_label_column_is_spelled_otherwise_is_warned_about(
    tmp_path: Path, tokenizer, caplog, header
):
    data = texts(tokenizer, "test", ["x", "y"], test=write(tmp_path / "t.csv", f"{header}\na,x\n"))
    assert not data.splits["test"].is_labelled
    assert "no column 'label', so the rows count as unlabelled; set data.label_column to" in caplog.text
    caplog.clear()
    texts(tokenizer, "test", ["x", "y"], test=write(tmp_path / "t.csv", "text,id\na,x\n"))
    assert not caplog.records


@pytest.mark.parametrize("label", ["", " ", None, -1, NAN])
def test_a_test_file_with_some_labels_names_the_line_without_one(tmp_path: Path, tokenizer, label):
    with pytest.raises(InputError, match=r"line 2: "):
        texts(tokenizer, "test", ["a", "b"], test=jsonl(tmp_path / "t.jsonl", ["a", label]))


CHOICE_FORMS = {
    "own": ("label", {"context": "c", "choices": ["a", "b"]}, 1),
    "swag": ("label", {"sent1": "c", "sent2": "d", "ending0": "a", "ending1": "b"}, 1),
    "dream": ("answer", {"dialogue": ["c"], "question": "q", "choice": ["a", "b"]}, "b"),
    "race": ("answer", {"article": "c", "question": "q", "options": ["a", "b"]}, "B"),
}


@pytest.mark.parametrize("form", CHOICE_FORMS)
def test_choices_may_be_hidden_all_together_in_a_test_file_only(tmp_path: Path, tokenizer, form):
    key, row, label = CHOICE_FORMS[form]

    def build(labels: list, split: str = "test") -> MultipleChoiceDataModule:
        settings = MultipleChoiceData(**{split: jsonl(tmp_path / "t.jsonl", labels, key, **row)})
        return MultipleChoiceDataModule(settings, tokenizer, split="test" if split == "test" else None)

    for labels in HIDDEN:
        assert not build(labels).splits["test"].is_labelled
    assert build([label, label]).splits["test"].is_labelled
    with pytest.raises(InputError, match="line 2: this question has no label, unlike the first"):
        build([label, ""])
    with pytest.raises(InputError, match="line 2: this question has a label, unlike the first"):
        build([None, label])
    with pytest.raises(InputError, match="line 1: this question has no label"):
        build(["", label], "train")


@pytest.mark.parametrize("answers", [KeyError, None, -1, "", [], ["", ""], [None, None]])
def test_answers_of_a_file_of_race_may_be_hidden(tmp_path: Path, tokenizer, answers):
    content = {"article": "a", "questions": ["q", "r"], "options": [["a", "b"]] * 2}
    write(tmp_path / "1.txt", json.dumps(content if answers is KeyError else {**content, "answers": answers}))
    data = MultipleChoiceDataModule(MultipleChoiceData(test=str(tmp_path)), tokenizer, split="test")
    assert not data.splits["test"].is_labelled


def test_relations_may_be_hidden_all_together_in_a_test_file_only(tmp_path: Path, tokenizer):
    marked = WordPieceTokenizer(with_markers(tokenizer.vocabulary))

    def build(labels: list, split: str = "test", **settings) -> RelationClassificationDataModule:
        source = jsonl(tmp_path / "t.jsonl", labels, "relation", text="<e1>the</e1> <e2>cat</e2>")
        data = RelationClassificationData(**{split: source}, **settings)
        is_test = split == "test"
        known = ["x", "y"] if is_test else None
        return RelationClassificationDataModule(data, marked, labels=known, split="test" if is_test else None)

    for labels in HIDDEN:
        for column in (None, "relation"):
            assert not build(labels, label_column=column).splits["test"].is_labelled
    with pytest.raises(InputError, match="line 2: this row has no relation, unlike the first"):
        build(["x", ""])
    with pytest.raises(InputError, match="line 2: this row has a relation, unlike the first"):
        build([None, "x"])
    with pytest.raises(
        InputError, match="line 2: this row has no relation in the column 'relation', unlike the first"
    ):
        build(["x", " "], "train", label_column="relation")


@pytest.mark.parametrize(
    "answers", [KeyError, None, [], {"text": [], "answer_start": []}, "", [{"text": "", "answer_start": -1}]]
)
def test_questions_without_any_answer_are_unlabelled_in_a_test_file(tmp_path: Path, tokenizer, answers):
    rows = [{"id": str(n), "question": "q", "context": "the cat"} for n in range(2)]
    rows = [row if answers is KeyError else {**row, "answers": answers} for row in rows]
    table = write(tmp_path / "t.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    squad = {"data": [{"paragraphs": [{"context": "the cat", "qas": rows}]}]}
    for test in (table, write(tmp_path / "t.json", json.dumps(squad))):
        for no_answer in (True, False):
            settings = QuestionAnsweringData(test=test)
            data = QuestionAnsweringDataModule(settings, tokenizer, no_answer=no_answer, split="test")
            assert not data.splits["test"].is_labelled


def test_questions_that_are_said_to_be_impossible_are_labelled(tmp_path: Path, tokenizer):
    row = {"id": "1", "question": "q", "context": "the cat", "answers": [], "is_impossible": True}
    test = write(tmp_path / "t.jsonl", json.dumps(row))
    data = QuestionAnsweringDataModule(QuestionAnsweringData(test=test), tokenizer, no_answer=True, split="test")
    assert data.splits["test"].is_labelled


def test_a_question_without_the_key_of_its_answers_among_others_is_named(tmp_path: Path, tokenizer):
    row = {"id": "1", "question": "q", "context": "the cat"}
    answered = {**row, "id": "2", "answers": [{"text": "cat", "answer_start": 4}]}
    test = write(tmp_path / "t.jsonl", json.dumps(answered) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(InputError, match=r"line 2 \(id '1'\): there is no key 'answers'"):
        QuestionAnsweringDataModule(QuestionAnsweringData(test=test), tokenizer, no_answer=True, split="test")


@pytest.mark.parametrize("tags", [None, [None, None], [-1, -1], ["", ""], "", []])
def test_tags_of_a_table_may_be_hidden(tmp_path: Path, tags):
    source = write(tmp_path / "t.jsonl", json.dumps({"tokens": ["a", "b"], "tags": tags}))
    assert [sentence.tags for sentence in read_tagged(source)] == [None]


@pytest.mark.parametrize("tag", ["", " ", -100, "-100"])
def test_a_tag_that_stands_for_none_is_refused_with_line_and_column(tmp_path: Path, tag):
    source = write(tmp_path / "t.jsonl", json.dumps({"tokens": ["a", "b"], "tags": ["1", tag]}))
    with pytest.raises(InputError, match=r"line 1: item 1 of the column 'tags' is '.*', which stands for no tag"):
        list(read_tagged(source))
    # Polarities are tags.
    source = write(tmp_path / "t.jsonl", json.dumps({"tokens": ["a", "b"], "tags": [-1, 1]}))
    assert [sentence.tags for sentence in read_tagged(source)] == [["-1", "1"]]
