"""Standard data sets of questions: SQuAD, and multiple choice in SWAG, DREAM and RACE."""

from collections.abc import Iterator
from functools import partial

from bert_lightning.data.datasets.examples import Question
from bert_lightning.data.datasets.readers.choices import read_choices
from bert_lightning.data.datasets.readers.questions import read_questions
from bert_lightning.data.datasets.standard_set import StandardSet, ignoring_split, one_file_splits


def _read_questions(source: str, split: str) -> Iterator[Question]:
    return read_questions(source, None if split == "test" else True)


_SQUAD_FILES = {"train": "train", "validation": "dev"}

QUESTION_SETS: dict[str, StandardSet] = {
    "squad-v1.1": StandardSet(
        task="question-answering",
        splits=one_file_splits(
            {s: (f"{f}-v1.1.json",) for s, f in _SQUAD_FILES.items()}, "hub:rajpurkar/squad:plain_text"
        ),
        read=_read_questions,
        monitor="squad_f1",
        source="Rajpurkar et al. 2016, SQuAD: 100,000+ questions for machine comprehension of text",
    ),
    "squad-v2.0": StandardSet(
        task="question-answering",
        splits=one_file_splits(
            {s: (f"{f}-v2.0.json",) for s, f in _SQUAD_FILES.items()}, "hub:rajpurkar/squad_v2:squad_v2"
        ),
        read=_read_questions,
        monitor="squad_f1",
        source="Rajpurkar, Jia and Liang 2018, Know what you don't know: unanswerable questions for SQuAD",
    ),
    "swag": StandardSet(
        task="multiple-choice",
        splits=one_file_splits(
            {
                "train": ("train.csv", "data/train.csv"),
                "validation": ("val.csv", "data/val.csv"),
                "test": ("test.csv", "data/test.csv"),
            },
            "hub:allenai/swag:regular",
        ),
        read=partial(ignoring_split, read_choices),
        monitor="accuracy",
        source="Zellers et al. 2018, SWAG: a large-scale adversarial dataset for grounded commonsense inference",
        test_has_labels=False,
        folders=("swagaf", "swagaf-master"),
    ),
    "dream": StandardSet(
        task="multiple-choice",
        splits=one_file_splits(
            {
                "train": ("train.json", "data/train.json"),
                "validation": ("dev.json", "data/dev.json"),
                "test": ("test.json", "data/test.json"),
            },
            "hub:dataset-org/dream@refs/convert/parquet:",
        ),
        read=partial(ignoring_split, read_choices),
        monitor="accuracy",
        source="Sun et al. 2019, DREAM: a challenge dataset and models for dialogue-based reading comprehension",
        folders=("dream", "dream-master"),
    ),
    "race": StandardSet(
        task="multiple-choice",
        splits=one_file_splits(
            {"train": ("train", "RACE/train"), "validation": ("dev", "RACE/dev"), "test": ("test", "RACE/test")},
            "hub:ehovy/race:all",
        ),
        read=partial(ignoring_split, read_choices),
        monitor="accuracy",
        source="Lai et al. 2017, RACE: large-scale reading comprehension dataset from examinations",
    ),
}
