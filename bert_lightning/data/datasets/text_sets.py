"""Standard data sets of labelled texts outside of GLUE: AG's news, IMDB, SemEval-2010 task 8 and TREC."""

from collections.abc import Iterator
from functools import partial

from bert_lightning.data.datasets.examples import LabelledText
from bert_lightning.data.datasets.readers.ag_news import AG_NEWS_LABELS, read_ag_news
from bert_lightning.data.datasets.readers.relations import read_relations
from bert_lightning.data.datasets.readers.texts import read_labelled_texts
from bert_lightning.data.datasets.readers.trec import read_trec
from bert_lightning.data.datasets.standard_set import StandardSet, has_hub_columns, ignoring_split, one_file_splits


def _read_trec(fine: bool, source: str, split: str) -> Iterator[LabelledText]:
    if not has_hub_columns(source):
        yield from read_trec(source, fine)
        return
    yield from read_labelled_texts(source, "text", None, f"{'fine' if fine else 'coarse'}_label")


def _read_ag_news(source: str, split: str) -> Iterator[LabelledText]:
    return read_labelled_texts(source, "text", None, "label") if has_hub_columns(source) else read_ag_news(source)


def _read_imdb(source: str, split: str) -> Iterator[LabelledText]:
    return read_labelled_texts(source, "text", None, "label")


_TREC_FINE = {
    "ABBR": "abb exp",
    "ENTY": "animal body color cremat currency dismed event food instru lang letter other plant product religion"
    " sport substance symbol techmeth termeq veh word",
    "DESC": "def desc manner reason",
    "HUM": "gr ind title desc",
    "LOC": "city country mount other state",
    "NUM": "code count date dist money ord other period perc speed temp volsize weight",
}
_TREC_SETS = {
    f"trec-{level}": StandardSet(
        task="text-classification",
        splits=one_file_splits(
            {
                "train": ("train_5500.label", "train_5500.label.txt"),
                "test": ("TREC_10.label", "TREC_10.label.txt"),
            },
            "hub:CogComp/trec@refs/convert/parquet:",
        ),
        read=partial(_read_trec, level == "fine"),
        monitor="accuracy",
        source="Li and Roth 2002, Learning question classifiers",
        labels=labels,
        problem_type="single-label",
    )
    for level, labels in {
        "coarse": tuple(_TREC_FINE),
        "fine": tuple(f"{coarse}:{kind}" for coarse, kinds in _TREC_FINE.items() for kind in kinds.split()),
    }.items()
}

TEXT_SETS: dict[str, StandardSet] = {
    "ag-news": StandardSet(
        task="text-classification",
        splits=one_file_splits(
            {"train": ("train.csv", "ag_news_csv/train.csv"), "test": ("test.csv", "ag_news_csv/test.csv")},
            "hub:fancyzhx/ag_news:default",
        ),
        read=_read_ag_news,
        monitor="accuracy",
        source="Zhang, Zhao and LeCun 2015, Character-level convolutional networks for text classification",
        labels=AG_NEWS_LABELS,
        problem_type="single-label",
    ),
    "imdb": StandardSet(
        task="text-classification",
        splits=one_file_splits(
            {"train": ("train", "aclImdb/train"), "test": ("test", "aclImdb/test")}, "hub:stanfordnlp/imdb:"
        ),
        read=_read_imdb,
        monitor="accuracy",
        source="Maas et al. 2011, Learning word vectors for sentiment analysis",
        other_forms={
            "IMDB Dataset.csv": "IMDB Dataset.csv is a copy without the authors' split: use the folder aclImdb, or "
            "split the copy yourself and read it without data.dataset, with the columns review and sentiment"
        },
        labels=("neg", "pos"),
        problem_type="single-label",
    ),
    "semeval2010-task8": StandardSet(
        task="relation-classification",
        splits=one_file_splits(
            {
                "train": ("TRAIN_FILE.TXT", "SemEval2010_task8_training/TRAIN_FILE.TXT"),
                "test": (
                    "TEST_FILE_FULL.TXT",
                    "SemEval2010_task8_testing_keys/TEST_FILE_FULL.TXT",
                ),
            },
            "hub:SemEvalWorkshop/sem_eval_2010_task_8:",
        ),
        read=partial(ignoring_split, read_relations),
        folders=("SemEval2010_task8_all_data",),
        # The official score: over the nine relations without Other. A relation in the wrong direction is an error.
        monitor="macro_f1",
        negative_label="Other",
        source="Hendrickx et al. 2010, SemEval-2010 task 8: multi-way classification of semantic relations",
        labels=(
            *(
                f"{relation}({order})"
                for relation in (
                    "Cause-Effect",
                    "Component-Whole",
                    "Content-Container",
                    "Entity-Destination",
                    "Entity-Origin",
                    "Instrument-Agency",
                    "Member-Collection",
                    "Message-Topic",
                    "Product-Producer",
                )
                for order in ("e1,e2", "e2,e1")
            ),
            "Other",
        ),
        problem_type="single-label",
    ),
    **_TREC_SETS,
}
