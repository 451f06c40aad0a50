"""Sources of the splits of a fine-tuning task, and settings that contradict each other."""

import pytest

from bert_lightning.errors import InputError
from bert_lightning.tasks.fine_tuning.sources import SubsetSource, subset_sources
from bert_lightning.tasks.fine_tuning.texts import TextTaskData
from bert_lightning.tasks.multiple_choice.settings import MultipleChoiceData
from bert_lightning.tasks.question_answering.settings import QuestionAnsweringData
from bert_lightning.tasks.relation_classification.settings import RelationClassificationData
from bert_lightning.tasks.text_classification.data import TextClassificationDataModule
from bert_lightning.tasks.text_classification.settings import TextClassificationData
from bert_lightning.tasks.token_classification.settings import TokenClassificationData

HEADED = "sentence\tlabel\nThe cat.\t0\nThe dog.\t1\n"


@pytest.fixture
def sst2(tmp_path):
    """A folder of SST-2 in its published layout."""
    for name in ("train.tsv", "dev.tsv"):
        (tmp_path / name).write_text(HEADED)
    (tmp_path / "test.tsv").write_text("index\tsentence\n0\tThe cat.\n")
    return tmp_path


def test_a_split_that_is_named_outright_is_read_in_the_layout_of_its_file(sst2, tokenizer):
    settings = TextClassificationData(dataset="glue/sst2", test=str(sst2 / "dev.tsv"))
    data = TextClassificationDataModule(settings, tokenizer, labels=["0", "1"], split="test")
    split = data.splits["test"]
    assert [example.text for example in split.examples] == ["The cat.", "The dog."]
    assert split.is_labelled
    assert split.subsets[0].submission is None
    settings = TextClassificationData(dataset="glue/sst2", folder=str(sst2))
    data = TextClassificationDataModule(settings, tokenizer, labels=["0", "1"], split="test")
    assert not data.splits["test"].is_labelled
    assert data.splits["test"].subsets[0].submission == "SST-2"


def test_a_limited_test_set_makes_no_submission(sst2, tokenizer):
    settings = TextClassificationData(dataset="glue/sst2", folder=str(sst2), max_evaluation_samples=1)
    data = TextClassificationDataModule(settings, tokenizer, labels=["0", "1"], split="test")
    assert data.splits["test"].subsets[0].submission is None


def test_a_file_whose_name_does_not_show_its_layout_is_refused(sst2):
    settings = TextClassificationData(dataset="glue/sst2", test=str(sst2 / "mine.tsv"))
    with pytest.raises(InputError, match=r"mine\.tsv: the columns of glue/sst2 depend on the file, .* train\.tsv"):
        subset_sources(settings, "test")


def test_a_standard_set_without_validation_trains_without_one(tmp_path):
    (tmp_path / "TRAIN_FILE.TXT").touch()
    settings = RelationClassificationData(dataset="semeval2010-task8", folder=str(tmp_path))
    assert subset_sources(settings, None) == {
        "train": [SubsetSource("", str(tmp_path / "TRAIN_FILE.TXT"), "train", None)],
    }


@pytest.mark.parametrize(
    ("cls", "settings", "message"),
    [
        (TextClassificationData, {"dataset": "glue/sst2", "text_column": "x"}, "text_column does nothing"),
        (TextClassificationData, {"dataset": "glue/sst2", "problem": "multi-label"}, "problem does nothing"),
        (TextClassificationData, {"dataset": "swag"}, "which is of the task multiple-choice"),
        (TextClassificationData, {"dataset": "glue/sst"}, "did you mean 'glue/sst2'"),
        (TextClassificationData, {"folder": "x"}, "folder does nothing without data.dataset"),
        (TextClassificationData, {"label_separator": ";"}, "label_separator must be a text between labels"),
        (TextClassificationData, {"label_separator": "", "problem": "multi-label"}, "label_separator"),
        (TextClassificationData, {"threshold": 0.3}, "threshold does nothing"),
        (TextClassificationData, {"class_weights": {"a": 0.0}}, "at least one must be more than 0"),
        (
            TextClassificationData,
            {"class_weights": "balanced", "problem": "regression"},
            "class_weights does nothing",
        ),
        (TokenClassificationData, {"dataset": "wnut17", "tag_column": "2"}, "tag_column does nothing"),
        (TokenClassificationData, {"max_seq_length": 10, "window_overlap": 5}, "window_overlap is 5"),
        (
            RelationClassificationData,
            {"dataset": "semeval2010-task8", "label_column": "x"},
            "label_column does nothing",
        ),
        (QuestionAnsweringData, {"max_seq_length": 20, "max_question_length": 17}, "max_question_length is 17"),
        (QuestionAnsweringData, {"doc_overlap": 400}, "doc_overlap is 400"),
        (MultipleChoiceData, {"max_seq_length": 4}, "max_seq_length is 4"),
    ],
)
def test_settings_without_effect_and_impossible_settings_are_errors(cls, settings, message):
    with pytest.raises(ValueError, match=message):
        cls(**settings)


@pytest.mark.parametrize("path", ["", " "])
def test_an_empty_path_is_named_by_its_key(path):
    with pytest.raises(ValueError, match=r"^validation is empty: name a file or folder"):
        TextClassificationData(train="a.tsv", validation=path)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"text_pair_column": "text"}, "text_pair_column is 'text', which is text_column too"),
        ({"label_column": "text"}, "label_column is 'text', which is the column of a text too"),
    ],
)
def test_a_custom_text_task_reads_no_column_as_two_things(columns, message):
    with pytest.raises(ValueError, match=message):
        TextTaskData(train="a.tsv", validation="b.tsv", **columns)
