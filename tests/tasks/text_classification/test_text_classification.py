import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert_lightning.data.loading.batching import length_bucketed
from bert_lightning.data.loading.encoding import encode_texts
from bert_lightning.errors import InputError
from bert_lightning.tasks.fine_tuning.data import sort_labels
from bert_lightning.tasks.text_classification.data import TextClassificationDataModule
from bert_lightning.tasks.text_classification.settings import TextClassificationData

COLUMNS = {"text_column": "sentence", "label_column": "topic"}


def build(tables, tokenizer, split=None, labels=None, **changes):
    paths = {split: str(path) for split, path in tables.items()}
    return TextClassificationDataModule(
        TextClassificationData(**{**paths, **COLUMNS, **changes}), tokenizer, split=split, labels=labels
    )


def test_batches_hold_the_rows_and_labels_of_the_table(tables, tokenizer):
    data = build(tables, tokenizer, "test", ["animals", "nature", "places"])
    lines = tables["test"].read_text().splitlines()[1:]
    seen = {}
    for batch in data.test_dataloader():
        for ids, label, number in zip(
            batch["input_ids"].tolist(), batch["labels"].tolist(), batch["numbers"].tolist(), strict=True
        ):
            seen[number] = (ids, data.labels[label])
    for number, line in enumerate(lines):
        text, topic = line.split("\t")
        expected = [tokenizer.cls_id, *tokenizer.encode_batch([text])[0], tokenizer.sep_id]
        ids, label = seen[number]
        assert label == topic
        assert ids[: len(expected)] == expected
        assert set(ids[len(expected) :]) <= {tokenizer.pad_id}


def test_a_label_only_in_validation_is_an_error_with_file_and_line(tables, tokenizer, tmp_path):
    path = tmp_path / "validation.tsv"
    path.write_text("sentence\ttopic\nThe old cat.\tanimals\nThe new car.\tvehicles\n")
    with pytest.raises(InputError, match=r"validation\.tsv: line 3: the label 'vehicles' does not occur in training"):
        build(tables, tokenizer, validation=str(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no examples"),
        ("sentence\ttopic\n", "no examples"),
        ("text\ttopic\nx\ta\ny\tb\n", "no column 'sentence'; the columns are: text, topic"),
        ("sentence\ttopic\nx\ta\ny\ta\n", "every row has the label 'a'"),
    ],
)
def test_an_unusable_training_table_is_named(tables, tokenizer, tmp_path, content, message):
    path = tmp_path / "train.tsv"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        build(tables, tokenizer, train=str(path), validation=None, test=None)


def test_labels_are_sorted_by_value_if_they_are_numbers_and_by_name_otherwise():
    assert sort_labels(["10", "9", "10", "-1"]) == ["-1", "9", "10"]
    assert sort_labels(["b", "10", "a"]) == ["10", "a", "b"]


@given(st.lists(st.sampled_from(["1", "2", "nan", "1.0", "01", "0", "inf", "x"]), min_size=2))
def test_the_order_of_labels_does_not_depend_on_the_order_of_rows(labels):
    assert sort_labels(labels) == sort_labels(labels[::-1]) == sort_labels(sorted(labels))


def test_scoring_reads_only_the_split_that_it_scores(tables, tokenizer):
    data = build(tables, tokenizer, "test", ["animals", "nature", "places"], train="gone.tsv", validation="gone.tsv")
    assert data.num_evaluation_samples("test") == 31


def test_a_null_and_half_a_character_are_errors_with_their_line(tables, tokenizer, tmp_path):
    for value, message in (("null", "'sentence' is null"), ('"\\ud83d"', "lone surrogate")):
        path = tmp_path / "train.jsonl"
        path.write_text(f'{{"sentence": "x", "topic": "a"}}\n{{"sentence": {value}, "topic": "b"}}\n')
        with pytest.raises(InputError, match=rf"line 2: .*{message}"):
            build(tables, tokenizer, train=str(path), validation=None)


def test_long_pairs_are_cut_from_the_longer_end_as_the_original_does(tokenizer):
    def reference(a, b, limit):
        a, b = list(a), list(b)
        while len(a) + len(b) > limit:
            (a if len(a) > len(b) else b).pop()
        return a, b

    words = [w for w in tokenizer.entries if w.isalpha() and len(w) > 2]
    for left in range(0, 30, 3):
        for right in range(0, 30, 4):
            texts, pairs = [" ".join(words[:left])], [" ".join(words[5 : 5 + right])]
            whole = encode_texts(tokenizer, texts, pairs, 1000)
            cut = encode_texts(tokenizer, texts, pairs, 23)
            assert (cut[0][0], cut[1][0]) == reference(whole[0][0], whole[1][0], 20)


@pytest.mark.parametrize(("num_rows", "batch_size", "num_steps"), [(96, 8, 30), (10, 4, 7), (500, 2, 260), (5, 8, 3)])
def test_length_buckets_see_every_row_equally_often(num_rows, batch_size, num_steps):
    lengths = np.random.default_rng(0).integers(3, 60, num_rows)
    counts = np.zeros(num_rows, dtype=int)
    for step in range(num_steps):
        _, rows = length_bucketed(7, lengths, batch_size, step, num_steps)
        assert len(rows) == batch_size
        np.add.at(counts, rows, 1)
    assert counts.max() - counts.min() <= 1


def test_length_buckets_pad_less_than_random_batches():
    lengths = np.random.default_rng(0).integers(3, 60, 640)
    widths = [lengths[length_bucketed(7, lengths, 32, step, 100)[1]].max() for step in range(100)]
    assert np.mean(widths) < 0.75 * lengths.max()


def test_max_train_samples_takes_the_first_rows(tables, tokenizer):
    assert build(tables, tokenizer, max_train_samples=12).num_training_samples == 12


def test_a_test_file_whose_label_column_is_called_otherwise_is_warned_about(tables, tokenizer, tmp_path, caplog):
    for name in ("Topic", " topic", "topics", "TOPICS "):
        caplog.clear()
        path = tmp_path / "test.tsv"
        path.write_text(f"sentence\t{name}\nThe old cat.\tanimals\n")
        data = build(tables, tokenizer, "test", ["animals", "nature"], test=str(path))
        assert not data.splits["test"].is_labelled
        assert f"no column 'topic', so the rows count as unlabelled; set data.label_column to {name!r}" in caplog.text


def test_blank_texts_are_warned_about_with_their_number_and_the_first_location(tables, tokenizer, tmp_path, caplog):
    path = tmp_path / "train.csv"
    path.write_text("sentence,other,topic\ncat,dog,a\n,dog,b\ncat, ,a\n")
    build(tables, tokenizer, train=str(path), validation=str(path))
    assert caplog.text.count(f"{path}: line 3: a text is empty or blank, in 1 row of {path}") == 2
    caplog.clear()
    build(tables, tokenizer, train=str(path), validation=str(path), text_pair_column="other")
    assert f"{path}: line 3: a text is empty or blank, in 2 rows of" in caplog.text


def test_a_label_column_that_is_another_in_every_row_is_warned_about(tables, tokenizer, tmp_path, caplog):
    path = tmp_path / "train.csv"
    for num_rows, is_warned in ((9, False), (10, True)):
        path.write_text("sentence,topic\n" + "".join(f"cat,{n / 7:.3f}\n" for n in range(num_rows)))
        build(tables, tokenizer, train=str(path), validation=str(path))
        assert (f"each of the {num_rows} rows has a different label, such as '0.000'" in caplog.text) == is_warned


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"text_pair_column": "text"}, "text_pair_column is 'text', which is text_column too"),
        ({"text_column": "label"}, "label_column is 'label', which is the column of a text too"),
        ({"text_pair_column": "label"}, "label_column is 'label', which is the column of a text too"),
    ],
)
def test_one_column_cannot_be_two_things(columns, message):
    with pytest.raises(ValueError, match=message):
        TextClassificationData(train="train.csv", **columns)
