"""GLUE: the files and columns of its tasks as published by GLUE, by the authors of each task, and on the hub."""

from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from bert_lightning.data.datasets.examples import LabelledText
from bert_lightning.data.datasets.labels import NLI_LABELS
from bert_lightning.data.datasets.readers.glue import read_glue
from bert_lightning.data.datasets.readers.glue_originals import (
    read_cola_public,
    read_msr_paraphrase,
    read_multinli,
    read_sts_benchmark,
)
from bert_lightning.data.datasets.readers.texts import read_labelled_texts
from bert_lightning.data.datasets.standard_set import SplitFile, StandardSet, has_hub_columns

_GLUE = "Wang et al. 2019, GLUE: a multi-task benchmark and analysis platform for natural language understanding"


class _Glue(NamedTuple):
    """A task of GLUE: its files and columns."""

    config: str
    """Its name on the hub."""
    folder: str
    """Its folder in GLUE's archive."""
    texts: tuple[int, ...]
    """The columns of the texts in train and dev, counted from 0."""
    label: int
    """The column of the label in train and dev."""
    test_texts: tuple[int, ...]
    """The columns of the texts in test."""
    hub_texts: tuple[str, ...]
    """The columns of the texts on the hub."""
    labels: tuple[str, ...] | None
    """The labels in the order of their ids; None for a regression."""
    hub_labels: tuple[str, ...] | None = None
    """The names of `labels` on the hub, if they differ."""
    has_header: bool = True
    """True if train and dev have a header. Test files always have one."""
    original: tuple[str, Callable[[str, str], Iterator[LabelledText]]] | None = None
    """The files that the authors themselves publish, as a glob of names, and their reader."""
    original_files: Mapping[str, str] = MappingProxyType({})
    """Split -> its file in that form."""

    def read(self, source: str, split: str) -> Iterator[LabelledText]:
        """Read a file of any form."""
        if self.original is not None and fnmatch(Path(source).name, self.original[0]):
            yield from self.original[1](source, split)
            return
        is_test = split == "test"
        if not has_hub_columns(source):
            texts, label = (self.test_texts, None) if is_test else (self.texts, self.label)
            # Only QQP has broken rows, and only training rows may be left out.
            skip = self.config == "qqp" and split == "train"
            yield from read_glue(source, texts, label, self.labels, self.has_header or is_test, skip)
            return
        published = dict(zip(self.hub_labels, self.labels, strict=True)) if self.hub_labels and self.labels else {}
        first, second = (*self.hub_texts, None)[:2]
        numeric = self.labels is None
        for example in read_labelled_texts(
            source, str(first), second, "label", numeric=numeric, id_column="idx", labelled=not is_test
        ):
            name = example.label
            yield example._replace(label=published.get(name, name)) if isinstance(name, str) else example

    def split_file(self, file: str, split: str, subset: str = "", submission: str | None = None) -> SplitFile:
        """Describe a file of the task, in the task's folder or in that of all tasks."""
        original = [self.original_files[split]] if split in self.original_files else []
        files = (f"{file}.tsv", f"{self.folder}/{file}.tsv", *original)
        return SplitFile(subset, files, f"hub:nyu-mll/glue:{self.config}:{split}", submission)


def _glue_set(
    task: _Glue,
    monitor: str,
    source: str,
    splits: Mapping[str, tuple[SplitFile, ...]] | None = None,
    folders: tuple[str, ...] = (),
    other_forms: Mapping[str, str] | None = None,
) -> StandardSet:
    return StandardSet(
        task="text-classification",
        splits=splits
        or {
            "train": (task.split_file("train", "train"),),
            "validation": (task.split_file("dev", "validation"),),
            "test": (task.split_file("test", "test", submission=task.folder),),
        },
        read=task.read,
        monitor=monitor,
        source=f"{source}; {_GLUE}",
        labels=task.labels,
        problem_type="regression" if task.labels is None else "single-label",
        is_pair=len(task.texts) > 1,
        test_has_labels=False,
        # GLUE's own script unpacks all tasks into one folder.
        folders=("glue_data", *folders),
        other_forms=other_forms or {},
    )


_BINARY = ("0", "1")
_ENTAILMENT = ("entailment", "not_entailment")
_SENTENCES = ("sentence1", "sentence2")
_MRPC = _Glue(
    *("mrpc", "MRPC", (3, 4), 0, (3, 4), _SENTENCES, _BINARY, ("not_equivalent", "equivalent")),
    original=("msr_paraphrase_*.txt*", read_msr_paraphrase),
    original_files={
        "train": "msr_paraphrase_train.txt",
        "validation": "msr_paraphrase_train.txt",
        "test": "msr_paraphrase_test.txt",
    },
)
_MNLI = _Glue(
    *("mnli", "MNLI", (8, 9), -1, (8, 9), ("premise", "hypothesis"), NLI_LABELS),
    original=("multinli_*.jsonl*", read_multinli),
    original_files={
        "train": "multinli_1.0_train.jsonl",
        "validation_matched": "multinli_1.0_dev_matched.jsonl",
        "validation_mismatched": "multinli_1.0_dev_mismatched.jsonl",
    },
)
_COLA = _Glue(
    *("cola", "CoLA", (3,), 1, (1,), ("sentence",), _BINARY, ("unacceptable", "acceptable")),
    has_header=False,
    original=("in_domain_*.tsv*", read_cola_public),
    original_files={"train": "in_domain_train.tsv", "validation": "in_domain_dev.tsv"},
)
_STSB = _Glue(
    *("stsb", "STS-B", (7, 8), -1, (7, 8), _SENTENCES, None),
    original=("sts-*.[ct]sv*", read_sts_benchmark),
    original_files={"train": "sts-train.csv", "validation": "sts-dev.csv", "test": "sts-test.csv"},
)
_AX = _Glue("ax", "AX", (1, 2), -1, (1, 2), ("premise", "hypothesis"), NLI_LABELS)

GLUE_SETS: dict[str, StandardSet] = {
    "glue/cola": _glue_set(
        _COLA,
        "matthews",
        "Warstadt, Singh and Bowman 2019, Neural network acceptability judgments",
        folders=("raw", "cola_public/raw"),
    ),
    "glue/sst2": _glue_set(
        _Glue("sst2", "SST-2", (0,), 1, (1,), ("sentence",), _BINARY, ("negative", "positive")),
        "accuracy",
        "Socher et al. 2013, Recursive deep models for semantic compositionality",
        other_forms=dict.fromkeys(
            ("trees", "trainDevTestTrees_PTB*", "datasetSentences.txt", "stanfordSentimentTreebank*"),
            "the treebank as Stanford publishes it is not read, because it does not say which phrases GLUE uses: "
            "GLUE's archive SST-2.zip has train.tsv and dev.tsv",
        ),
    ),
    "glue/mrpc": _glue_set(
        _MRPC,
        "f1",
        "Dolan and Brockett 2005, Automatically constructing a corpus of sentential paraphrases",
        folders=("MRPC", "glue_data/MRPC", "MSRParaphraseCorpus"),
    ),
    "glue/stsb": _glue_set(
        _STSB,
        "spearman",
        "Cer et al. 2017, SemEval-2017 task 1: semantic textual similarity",
        folders=("stsbenchmark",),
    ),
    "glue/qqp": _glue_set(
        _Glue("qqp", "QQP", (3, 4), 5, (1, 2), ("question1", "question2"), _BINARY, ("not_duplicate", "duplicate")),
        "f1",
        "Iyer, Dandekar and Csernai 2017, First Quora dataset release: question pairs",
        other_forms={
            "quora_duplicate_questions.tsv": "quora_duplicate_questions.tsv, Quora's own file, has no splits: GLUE's "
            "archive QQP.zip has train.tsv and dev.tsv"
        },
    ),
    "glue/mnli": _glue_set(
        _MNLI,
        "accuracy",
        "Williams, Nangia and Bowman 2018, A broad-coverage challenge corpus for sentence understanding",
        {
            "train": (_MNLI.split_file("train", "train"),),
            "validation": (
                _MNLI.split_file("dev_matched", "validation_matched", "matched"),
                _MNLI.split_file("dev_mismatched", "validation_mismatched", "mismatched"),
            ),
            "test": (
                _MNLI.split_file("test_matched", "test_matched", "matched", "MNLI-m"),
                _MNLI.split_file("test_mismatched", "test_mismatched", "mismatched", "MNLI-mm"),
            ),
        },
        folders=("multinli_1.0",),
    ),
    "glue/qnli": _glue_set(
        _Glue("qnli", "QNLI", (1, 2), -1, (1, 2), ("question", "sentence"), _ENTAILMENT),
        "accuracy",
        "Rajpurkar et al. 2016, SQuAD: 100,000+ questions for machine comprehension of text",
        other_forms={
            "*-v1.1.json": "SQuAD's own files hold questions with answers, which are the data set squad-v1.1: GLUE's "
            "archive QNLI.zip (or QNLIv2.zip) has the pairs train.tsv and dev.tsv"
        },
    ),
    "glue/rte": _glue_set(
        _Glue("rte", "RTE", (1, 2), -1, (1, 2), _SENTENCES, _ENTAILMENT),
        "accuracy",
        "Dagan et al. 2006, The PASCAL recognising textual entailment challenge, and its second, third and fifth",
        other_forms=dict.fromkeys(
            ("*.xml", "*/*.xml"),
            "the challenges' own XML files are not read: GLUE's archive RTE.zip has them as train.tsv and dev.tsv",
        ),
    ),
    "glue/wnli": _glue_set(
        _Glue("wnli", "WNLI", (1, 2), -1, (1, 2), _SENTENCES, _BINARY, ("not_entailment", "entailment")),
        "accuracy",
        "Levesque, Davis and Morgenstern 2012, The Winograd schema challenge",
        other_forms=dict.fromkeys(
            ("*.xml", "*/*.xml"),
            "the collection of schemas in XML is not read: GLUE's archive WNLI.zip has train.tsv and dev.tsv",
        ),
    ),
    # It has no training data: a model trained on MNLI is scored.
    "glue/ax": _glue_set(
        _AX,
        "matthews",
        "Wang et al. 2019, section 4",
        {
            "test": (
                SplitFile(
                    "diagnostics",
                    ("diagnostic.tsv", "AX.tsv", "diagnostic/diagnostic.tsv", "MNLI/diagnostic.tsv", "AX/AX.tsv"),
                    "hub:nyu-mll/glue:ax:test",
                    "AX",
                ),
            )
        },
    ),
}
