"""Few-shot selection: so many examples per class, chosen as LM-BFF publishes it."""

import hashlib
import random
import re

import numpy as np
import pytest

from bert_lightning.config.experiment import load_experiment
from bert_lightning.data.datasets.catalogue import standard_set
from bert_lightning.data.datasets.examples import LabelledText
from bert_lightning.errors import InputError
from bert_lightning.runs.building import build_training
from bert_lightning.tasks.text_classification.data import TextClassificationDataModule
from bert_lightning.tasks.text_classification.few_shot import PUBLISHED_SEEDS, few_shot
from bert_lightning.tasks.text_classification.settings import TextClassificationData
from tests.support.task_data import tiny_classification

COLUMNS = {"text_column": "sentence", "label_column": "topic"}
# RTE/16-SEED/train.tsv and dev.tsv of https://github.com/princeton-nlp/LM-BFF, data/k-shot/checksum (MD5).
PUBLISHED = {
    13: ("0aaae3483435626089adbc4ae851b75d", "8fc45ab58e72e16cf90547710f3b5d15"),
    21: ("79490f931a776fad7f3b2ba31f9142d1", "96ac052f30101901e6bc04adb4875edb"),
    42: ("4d45391333d2f56d16633d7b85d3e051", "a64069d0ca424995d35e05e67c03ceb9"),
    87: ("46af88a12bc44c12a40ea2cb79e94837", "19ee5593b53d1b290737eb9de2ca4869"),
    100: ("548d8775d98ca0638615b9e0bfbe5c32", "bc66584b1fa19f9620051e8db7bcc1dc"),
}


def examples(number=40, classes=3):
    generator = random.Random(1)
    return [LabelledText("", f"text {n}", None, str(generator.randrange(classes)), str(n)) for n in range(number)]


def choose(rows, per_class, seed, skipped=0):
    key = "data.examples_per_class"
    return few_shot(rows, per_class, seed, source="train.tsv", key=key, skipped=skipped)


@pytest.mark.real_data
def test_the_splits_of_rte_are_the_published_files_byte_for_byte(real_data):
    path = real_data / "glue/RTE/train.tsv"
    header, *lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    rows = list(standard_set("glue/rte").read(str(path), "train"))
    assert len(rows) == len(lines)
    line_of = {id(row): line for row, line in zip(rows, lines, strict=True)}
    for seed in PUBLISHED_SEEDS:
        for skipped, expected in zip((0, 16), PUBLISHED[seed], strict=True):
            text = header + "".join(line_of[id(row)] for row in choose(rows, 16, seed, skipped))
            assert hashlib.md5(text.encode()).hexdigest() == expected


@pytest.mark.parametrize("seed", [0, *PUBLISHED_SEEDS])
def test_the_choice_is_that_of_the_published_script_on_any_file(seed):
    rows, lines = examples(), list(range(40))
    np.random.seed(seed)
    np.random.shuffle(lines)
    labels = dict.fromkeys(rows[line].label for line in lines)
    expected = [rows[line] for label in labels for line in [n for n in lines if rows[n].label == label][2:5]]
    assert choose(rows, 3, seed, skipped=2) == expected


def test_training_and_validation_rows_are_disjoint_and_balanced():
    rows = examples(60)
    chosen, further = choose(rows, 4, 21), choose(rows, 4, 21, skipped=4)
    assert not {row.id for row in chosen} & {row.id for row in further}
    for each in (chosen, further):
        assert [sum(row.label == label for row in each) for label in "012"] == [4, 4, 4]


def module(tables, tokenizer, split=None, **changes):
    paths = {name: str(path) for name, path in tables.items()} | changes
    settings = TextClassificationData(
        **COLUMNS, **{name: value for name, value in paths.items() if value is not None}
    )
    labels = ["animals", "nature", "places"] if split is not None else None
    return TextClassificationDataModule(settings, tokenizer, split=split, labels=labels)


def test_a_module_trains_on_the_chosen_rows_and_validates_on_the_whole_file(tables, tokenizer):
    data = module(tables, tokenizer, examples_per_class=5, examples_seed=13)
    assert len(data.splits["train"].examples) == 15
    assert len(data.splits["validation"].examples) == 30
    every = module(tables, tokenizer).splits["train"].examples
    assert data.splits["train"].examples == choose(every, 5, 13)


@pytest.mark.parametrize("split", [None, "validation"])
def test_a_module_validates_on_further_rows_of_the_training_file(tables, tokenizer, split):
    changes = {"examples_per_class": 5, "validation_per_class": 2, "examples_seed": 42, "validation": None}
    data = module(tables, tokenizer, split, **changes)
    every = module(tables, tokenizer).splits["train"].examples
    assert data.splits["validation"].examples == choose(every, 2, 42, skipped=5)
    assert len(module(tables, tokenizer, "test", **changes).splits["test"].examples) == 31


def test_the_seed_of_the_run_chooses_unless_the_split_has_its_own(tables, tokenizer, tmp_path):
    values = tiny_classification(tables, tokenizer, tmp_path)

    def rows(*overrides):
        experiment = load_experiment([], ["--data.examples_per_class=4", *overrides], values)
        return build_training(experiment, None).data.splits["train"].examples

    assert rows("--seed_everything=21") == rows("--seed_everything=1", "--data.examples_seed=21")
    assert rows("--seed_everything=21") != rows("--seed_everything=42")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"examples_per_class": 33, "examples_seed": 1},
            "data.examples_per_class is 33, but .* has only 32 .*'animals'",
        ),
        (
            {"examples_per_class": 30, "validation_per_class": 3, "examples_seed": 1, "validation": None},
            "data.validation_per_class is 3 beside the 30 to train on, but .* has only 32 examples of the class",
        ),
        ({"examples_per_class": 3}, "data.examples_seed is not set"),
    ],
)
def test_more_examples_than_there_are_name_the_key_and_the_class(tables, tokenizer, changes, message):
    with pytest.raises(InputError, match=message.replace("'animals'", "'\\w+'")):
        module(tables, tokenizer, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"examples_per_class": 0}, "examples_per_class is 0; it must be at least 1"),
        ({"examples_seed": 3}, "examples_seed does nothing without data.examples_per_class"),
        ({"validation_per_class": 3}, "validation_per_class does nothing without data.examples_per_class"),
        ({"examples_per_class": 3, "problem": "regression"}, "examples_per_class needs classes, and the problem is"),
        ({"examples_per_class": 3, "max_train_samples": 9}, "so leave max_train_samples out"),
        ({"examples_per_class": 3, "validation_per_class": 3, "validation": "x"}, "leave validation out"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        TextClassificationData(train="train.tsv", **changes)
