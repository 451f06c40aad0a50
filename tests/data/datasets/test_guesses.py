"""Guesses about a user's table, in each form that such tables have."""

import json

import pytest

from bert_lightning.data.datasets.guesses import guess_relations, guess_tags, guess_texts
from bert_lightning.errors import InputError


@pytest.mark.parametrize(
    ("name", "text", "settings"),
    [
        ("a.tsv", "sentence\tlabel\nA boat.\t1\nA sea.\t0\n", {"text_column": "sentence", "label_column": "label"}),
        ("a.csv", "Text,Label\nA boat.,x\nA sea.,y\n", {"text_column": "Text", "label_column": "Label"}),
        (
            "pairs.tsv",
            "id\tpremise\thypothesis\tgold_label\n1\tA b.\tC d.\tx\n2\tA.\tB.\ty\n",
            {"text_column": "premise", "text_pair_column": "hypothesis", "label_column": "gold_label"},
        ),
        (
            "scores.csv",
            "text1,text2,score\na b,c d,3.8\na,b,0\n",
            {"text_column": "text1", "text_pair_column": "text2", "label_column": "score", "problem": "regression"},
        ),
        # Names that say nothing: few values make a label, long texts a text.
        (
            "odd.csv",
            "n,words of it,kind\n1,a long text about it,p\n2,another long one,q\n3,and a third,p\n",
            {"text_column": "words of it", "label_column": "kind"},
        ),
        # Stars are classes: whole numbers.
        ("stars.csv", "review,stars\ngood,5\nbad,1\n", {"text_column": "review", "label_column": "stars"}),
        ("half.csv", "text,label\ngood,1.0\nbad,0.0\n", {"text_column": "text", "label_column": "label"}),
        (
            "several.csv",
            "text,topics\na,sea|sky\nb,sea\nc,sky\nd,sky|sun\n",
            {"text_column": "text", "label_column": "topics", "problem": "multi-label", "label_separator": "|"},
        ),
        # A comma inside names separates nothing.
        (
            "towns.csv",
            'text,label\na,"Rome, Italy"\nb,"Oslo, Norway"\nc,"Rome, Italy"\n',
            {"text_column": "text", "label_column": "label"},
        ),
        # No names of columns.
        (
            "bare.tsv",
            "a fine film\tgood\nan awful one\tbad\nfine again\tgood\n",
            {"column_names": ["column1", "column2"], "text_column": "column1", "label_column": "column2"},
        ),
    ],
)
def test_columns_problem_and_separator_of_a_table_are_guessed(tmp_path, name, text, settings):
    path = tmp_path / name
    path.write_text(text)
    assert guess_texts(str(path)) == settings


def test_lists_of_labels_are_a_multi_label_problem(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": "a", "labels": labels}) + "\n" for labels in (["x"], [], ["x", "y"])))
    assert guess_texts(str(path)) == {"text_column": "text", "label_column": "labels", "problem": "multi-label"}


def test_a_folder_of_texts_needs_no_columns(tmp_path):
    assert guess_texts(str(tmp_path)) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n", "there are no examples"),
        ("text\na\nb\n", "no column looks like the label; the columns are: text"),
        ("label,weight\nx,\ny,\n", "no column looks like the text; the columns are: label, weight"),
        ("text,label\na\n", "line 2: this line has 1 columns"),
    ],
)
def test_a_table_without_text_or_label_is_refused(tmp_path, text, message):
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        guess_texts(str(path))


def test_only_columns_with_other_names_than_the_default_ones_are_named(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"tokens": ["a"], "ner_tags": ["O"]}) + "\n")
    assert guess_tags(str(path)) == {}
    path.write_text(json.dumps({"words": ["a"], "ner": ["O"]}) + "\n")
    assert guess_tags(str(path)) == {"token_column": "words", "tag_column": "ner"}
    assert guess_tags("a.conll") == {}
    rows = [{"body": f"<e1>a</e1> {n} <e2>b</e2>", "kind": "xy"[n % 2]} for n in range(4)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert guess_relations(str(path)) == {"text_column": "body", "label_column": "kind"}
    path.write_text(json.dumps({"text": "<e1>a</e1> <e2>b</e2>", "label": "x"}) + "\n")
    assert guess_relations(str(path)) == {}
