"""The standard data sets by name: their files as published, their readers, labels and metrics."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import TypeVar

from bert_lightning.checkpoints.listing import entries, matches
from bert_lightning.checks import nearest
from bert_lightning.data.datasets.examples import LabelledText, Question, TaggedSentence
from bert_lightning.data.datasets.glue import GLUE_SETS
from bert_lightning.data.datasets.readers.ag_news import AG_NEWS_LABELS, read_ag_news
from bert_lightning.data.datasets.readers.choices import read_choices
from bert_lightning.data.datasets.readers.questions import read_questions
from bert_lightning.data.datasets.readers.relations import read_relations
from bert_lightning.data.datasets.readers.tagged import read_tagged
from bert_lightning.data.datasets.readers.texts import read_labelled_texts
from bert_lightning.data.datasets.readers.trec import read_trec
from bert_lightning.data.datasets.standard_set import SplitFile, StandardSet, has_hub_columns
from bert_lightning.data.reading.lines import COMPRESSIONS, format_suffix
from bert_lightning.data.reading.tables import is_table
from bert_lightning.errors import InputError

# Files of a folder that an error message lists.
_MAX_LISTED = 20
T = TypeVar("T")


def standard_set(name: str) -> StandardSet:
    """Return the standard data set of a name.

    Raises:
        InputError: there is none. The message suggests the nearest name.

    >>> standard_set("conll2003-ner").scheme
    'IOB1'
    >>> standard_set("GLUE/COLA")
    Traceback (most recent call last):
    bert_lightning.errors.InputError: no standard data set is called 'GLUE/COLA'; did you mean 'glue/cola'?
    """
    if name not in STANDARD_SETS:
        raise InputError(f"no standard data set is called {name!r}{nearest(name.lower(), STANDARD_SETS)}")
    return STANDARD_SETS[name]


def locate(name: str, split: str, folder: str | None = None) -> list[tuple[SplitFile, str]]:
    """Find the files of a split of a standard data set.

    Args:
        name: the name of the data set.
        split: `train`, `validation` or `test`.
        folder: the data folder; None for the hub. Its files may also be compressed (`.gz`, `.xz`, `.zst`).

    Returns:
        Each file of the split, and its source: a path or a name on the hub.

    Raises:
        InputError: there is no such data set or split, or the hub does not have it, or a file is missing. In the last
            case the message names the file and lists the folder.

    >>> locate("glue/cola", "train")[0][1]
    'hub:nyu-mll/glue:cola:train'
    """
    described = standard_set(name)
    if split not in described.splits:
        raise InputError(f"{name} has no {split} split; it has {', '.join(described.splits)}")
    return [
        (file, _on_hub(name, split, file) if folder is None else _in_folder(described, file, folder))
        for file in described.splits[split]
    ]


def _on_hub(name: str, split: str, file: SplitFile) -> str:
    if file.hub is None:
        raise InputError(f"{name}: the hub has no {split} split that can be read by name: give a folder")
    return file.hub


def _in_folder(described: StandardSet, file: SplitFile, folder: str) -> str:
    """Return the first file of a folder that has one of the names of a split's file.

    Raises:
        InputError: no file has, or several files match one name.
    """
    try:
        path = Path(folder).expanduser()
    except RuntimeError as error:
        raise InputError(f"{folder}: {error}") from None
    if not path.is_dir():
        raise InputError(f"{folder}: no such folder")
    alternatives = (*file.files, *_hub_file_names(file))
    for pattern, subfolder, ending in product(alternatives, ("", *described.folders), ("", *COMPRESSIONS)):
        name = str(Path(subfolder, pattern + ending))
        files = matches(name, path) if "*" in name else [path / name]
        if len(files) > 1:
            several = ", ".join(str(match.relative_to(path)) for match in files)
            raise InputError(f"{folder}: more than one file is {pattern}: {several}")
        if files and files[0].exists():
            return str(files[0])
    raise InputError(_not_found(described, file, folder))


def _not_found(described: StandardSet, file: SplitFile, folder: str) -> str:
    path = Path(folder).expanduser()
    names = sorted(entry.name + "/" * entry.is_dir() for entry in entries(path))
    listing = ", ".join(names[:_MAX_LISTED]) + (
        f" and {len(names) - _MAX_LISTED} more" if names[_MAX_LISTED:] else ""
    )
    also = f", also in {', '.join(described.folders)}" if described.folders else ""
    hints = [hint for form, hint in described.other_forms.items() if matches(form, path)]
    hint = f"; {hints[0]}" if hints else ""
    return f"{folder}: {' or '.join(file.files)} was looked for{also}; the folder holds: {listing or 'nothing'}{hint}"


def _hub_file_names(file: SplitFile) -> Iterator[str]:
    """Yield the names of Parquet files that were downloaded from the hub or written by `datasets`."""
    if file.hub is not None:
        _, configuration, split = file.hub.rsplit(":", 2)
        yield from (f"{folder}{split}-*.parquet" for folder in (f"{configuration or 'default'}/", "data/", ""))
        yield from (f"{configuration or 'default'}/{split}/*.parquet", f"{split}.parquet", f"{split}.jsonl")


def _splits(files: Mapping[str, Sequence[str]], hub: str | None) -> dict[str, tuple[SplitFile, ...]]:
    """Describe splits of one file each.

    Args:
        files: split -> the names of its file.
        hub: the source on the hub without the name of the split; None if it is not there.
    """
    return {
        split: (SplitFile("", tuple(alternatives), None if hub is None else f"{hub}:{split}"),)
        for split, alternatives in files.items()
    }


def _read_tagged(column: int, name: str, source: str, split: str) -> Iterator[TaggedSentence]:
    is_rows = is_table(source) and format_suffix(source) != ".tsv"
    return read_tagged(source, None, name if is_rows else column)


def _ignoring_split(read: Callable[[str], Iterator[T]], source: str, split: str) -> Iterator[T]:
    return read(source)


def _read_questions(source: str, split: str) -> Iterator[Question]:
    return read_questions(source, None if split == "test" else True)


def _read_trec(fine: bool, source: str, split: str) -> Iterator[LabelledText]:
    if not has_hub_columns(source):
        yield from read_trec(source, fine)
        return
    yield from read_labelled_texts(source, "text", None, f"{'fine' if fine else 'coarse'}_label")


def _read_ag_news(source: str, split: str) -> Iterator[LabelledText]:
    return read_labelled_texts(source, "text", None, "label") if has_hub_columns(source) else read_ag_news(source)


def _read_imdb(source: str, split: str) -> Iterator[LabelledText]:
    return read_labelled_texts(source, "text", None, "label")


def _span_tags(types: str) -> tuple[str, ...]:
    return ("O", *(f"{prefix}-{kind}" for kind in types.split() for prefix in "BI"))


_CONLL_2003 = "Tjong Kim Sang and De Meulder 2003, Introduction to the CoNLL-2003 shared task"
_CONLL_2003_SPLITS = _splits(
    {
        "train": ("eng.train", "train.txt", "train.conll"),
        "validation": ("eng.testa", "valid.txt", "dev.txt", "dev.conll", "valid.conll"),
        "test": ("eng.testb", "test.txt", "test.conll"),
    },
    "hub:lhoestq/conll2003:",
)
# Copies unpack the files into the first folder; the organisers' own script writes to the second one.
_CONLL_2003_FOLDERS = ("conll2003", "ner")
# The tags of the Penn Treebank that occur in CoNLL-2003.
_PENN_TAGS = (
    "\" '' # $ ( ) , . : `` CC CD DT EX FW IN JJ JJR JJS LS MD NN NNP NNPS NNS NN|SYM PDT POS PRP PRP$ RB RBR RBS RP"
    " SYM TO UH VB VBD VBG VBN VBP VBZ WDT WP WP$ WRB"
)
# https://universaldependencies.org/u/pos
_UNIVERSAL_TAGS = "ADJ ADP ADV AUX CCONJ DET INTJ NOUN NUM PART PRON PROPN PUNCT SCONJ SYM VERB X"

_TOKEN_SETS = {
    # First published as IOB1. Most copies are IOB2, which the conversion from IOB1 to IOB2 leaves unchanged.
    "conll2003-ner": StandardSet(
        task="token-classification",
        splits=_CONLL_2003_SPLITS,
        folders=_CONLL_2003_FOLDERS,
        read=partial(_read_tagged, -1, "ner_tags"),
        monitor="entity_f1",
        source=_CONLL_2003,
        labels=_span_tags("PER ORG LOC MISC"),
        scheme="IOB1",
    ),
    "conll2003-pos": StandardSet(
        task="token-classification",
        splits=_CONLL_2003_SPLITS,
        folders=_CONLL_2003_FOLDERS,
        read=partial(_read_tagged, 1, "pos_tags"),
        monitor="accuracy",
        source=_CONLL_2003,
        labels=tuple(_PENN_TAGS.split()),
        scheme="none",
    ),
    "conll2000-chunking": StandardSet(
        task="token-classification",
        splits=_splits(
            {"train": ("train.txt", "train.conll"), "test": ("test.txt", "test.conll")},
            "hub:eriktks/conll2000@refs/convert/parquet:",
        ),
        folders=("conll2000",),
        read=partial(_read_tagged, -1, "chunk_tags"),
        monitor="entity_f1",
        source="Tjong Kim Sang and Buchholz 2000, Introduction to the CoNLL-2000 shared task: chunking",
        labels=_span_tags("ADJP ADVP CONJP INTJ LST NP PP PRT SBAR UCP VP"),
        scheme="IOB2",
    ),
    "wnut17": StandardSet(
        task="token-classification",
        splits=_splits(
            {
                "train": ("train.conll", "wnut17train.conll", "emerging.train.conll"),
                "validation": ("dev.conll", "emerging.dev.conll"),
                "test": ("test.conll", "emerging.test.annotated", "emerging.test.conll"),
            },
            "hub:leondz/wnut_17@refs/convert/parquet:",
        ),
        read=partial(_read_tagged, -1, "ner_tags"),
        monitor="entity_f1",
        source="Derczynski et al. 2017, Results of the WNUT2017 shared task on novel and emerging entity recognition",
        labels=_span_tags("corporation creative-work group location person product"),
        scheme="IOB2",
    ),
    "universal-dependencies-pos": StandardSet(
        task="token-classification",
        splits=_splits(
            {"train": ("*-ud-train.conllu",), "validation": ("*-ud-dev.conllu",), "test": ("*-ud-test.conllu",)}, None
        ),
        folders=("UD_*",),
        read=partial(_read_tagged, 3, "upos"),
        monitor="accuracy",
        source="Nivre et al. 2020, Universal Dependencies v2",
        labels=tuple(_UNIVERSAL_TAGS.split()),
        scheme="none",
    ),
}

_SQUAD_FILES = {"train": "train", "validation": "dev"}
_OTHER_SETS = {
    "squad-v1.1": StandardSet(
        task="question-answering",
        splits=_splits({s: (f"{f}-v1.1.json",) for s, f in _SQUAD_FILES.items()}, "hub:rajpurkar/squad:plain_text"),
        read=_read_questions,
        monitor="squad_f1",
        source="Rajpurkar et al. 2016, SQuAD: 100,000+ questions for machine comprehension of text",
    ),
    "squad-v2.0": StandardSet(
        task="question-answering",
        splits=_splits({s: (f"{f}-v2.0.json",) for s, f in _SQUAD_FILES.items()}, "hub:rajpurkar/squad_v2:squad_v2"),
        read=_read_questions,
        monitor="squad_f1",
        source="Rajpurkar, Jia and Liang 2018, Know what you don't know: unanswerable questions for SQuAD",
    ),
    "swag": StandardSet(
        task="multiple-choice",
        splits=_splits(
            {
                "train": ("train.csv", "data/train.csv"),
                "validation": ("val.csv", "data/val.csv"),
                "test": ("test.csv", "data/test.csv"),
            },
            "hub:allenai/swag:regular",
        ),
        read=partial(_ignoring_split, read_choices),
        monitor="accuracy",
        source="Zellers et al. 2018, SWAG: a large-scale adversarial dataset for grounded commonsense inference",
        test_has_labels=False,
        folders=("swagaf", "swagaf-master"),
    ),
    "dream": StandardSet(
        task="multiple-choice",
        splits=_splits(
            {
                "train": ("train.json", "data/train.json"),
                "validation": ("dev.json", "data/dev.json"),
                "test": ("test.json", "data/test.json"),
            },
            "hub:dataset-org/dream@refs/convert/parquet:",
        ),
        read=partial(_ignoring_split, read_choices),
        monitor="accuracy",
        source="Sun et al. 2019, DREAM: a challenge dataset and models for dialogue-based reading comprehension",
        folders=("dream", "dream-master"),
    ),
    "race": StandardSet(
        task="multiple-choice",
        splits=_splits(
            {"train": ("train", "RACE/train"), "validation": ("dev", "RACE/dev"), "test": ("test", "RACE/test")},
            "hub:ehovy/race:all",
        ),
        read=partial(_ignoring_split, read_choices),
        monitor="accuracy",
        source="Lai et al. 2017, RACE: large-scale reading comprehension dataset from examinations",
    ),
    "ag-news": StandardSet(
        task="text-classification",
        splits=_splits(
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
        splits=_splits(
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
        splits=_splits(
            {
                "train": ("TRAIN_FILE.TXT", "SemEval2010_task8_training/TRAIN_FILE.TXT"),
                "test": (
                    "TEST_FILE_FULL.TXT",
                    "SemEval2010_task8_testing_keys/TEST_FILE_FULL.TXT",
                ),
            },
            "hub:SemEvalWorkshop/sem_eval_2010_task_8:",
        ),
        read=partial(_ignoring_split, read_relations),
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
}

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
        splits=_splits(
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

STANDARD_SETS: dict[str, StandardSet] = {**GLUE_SETS, **_TOKEN_SETS, **_OTHER_SETS, **_TREC_SETS}
