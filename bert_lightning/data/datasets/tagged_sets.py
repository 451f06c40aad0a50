"""Standard data sets of tagged sentences: CoNLL-2000 and 2003, WNUT 2017, Universal Dependencies."""

from collections.abc import Iterator
from functools import partial

from bert_lightning.data.datasets.examples import TaggedSentence
from bert_lightning.data.datasets.readers.tagged import holds_lists, read_tagged
from bert_lightning.data.datasets.standard_set import StandardSet, one_file_splits


def _read_tagged(column: int, name: str, source: str, split: str) -> Iterator[TaggedSentence]:
    return read_tagged(source, None, name if holds_lists(source) else column)


def _span_tags(types: str) -> tuple[str, ...]:
    return ("O", *(f"{prefix}-{kind}" for kind in types.split() for prefix in "BI"))


_CONLL_2003 = "Tjong Kim Sang and De Meulder 2003, Introduction to the CoNLL-2003 shared task"
_CONLL_2003_SPLITS = one_file_splits(
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

TAGGED_SETS: dict[str, StandardSet] = {
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
        splits=one_file_splits(
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
        splits=one_file_splits(
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
        splits=one_file_splits(
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
