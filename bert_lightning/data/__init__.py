"""From files to micro-batches: readers, token stores, pre-training samples, and the base of all DataModules."""

from typing import TYPE_CHECKING

from bert_lightning.lazy import exports

if TYPE_CHECKING:
    from bert_lightning.data.corpus.token_store import TokenStore
    from bert_lightning.data.datasets.catalogue import STANDARD_SETS, standard_set
    from bert_lightning.data.datasets.examples import (
        Answer,
        ChoiceQuestion,
        LabelledText,
        Question,
        RelationExample,
        TaggedSentence,
    )
    from bert_lightning.data.datasets.registration import register_dataset
    from bert_lightning.data.datasets.standard_set import StandardSet
    from bert_lightning.data.loading.batching import Batch
    from bert_lightning.data.loading.encoding import encode_texts, text_batch
    from bert_lightning.data.loading.module import EvaluationSplit, StepDataModule, TrainingLength, TrainingPlan
    from bert_lightning.data.pretraining.masking import (
        MASKINGS,
        Masking,
        NgramMasking,
        Selection,
        Sequences,
        SpanMasking,
        TokenMasking,
        WholeWordMasking,
    )
    from bert_lightning.data.pretraining.module import PretrainingDataModule
    from bert_lightning.data.pretraining.settings import PretrainingData
    from bert_lightning.data.reading.lines import read_lines
    from bert_lightning.data.reading.tables import Row, read_rows

__all__ = [
    "MASKINGS",
    "STANDARD_SETS",
    "Answer",
    "Batch",
    "ChoiceQuestion",
    "EvaluationSplit",
    "LabelledText",
    "Masking",
    "NgramMasking",
    "PretrainingData",
    "PretrainingDataModule",
    "Question",
    "RelationExample",
    "Row",
    "Selection",
    "Sequences",
    "SpanMasking",
    "StandardSet",
    "StepDataModule",
    "TaggedSentence",
    "TokenMasking",
    "TokenStore",
    "TrainingLength",
    "TrainingPlan",
    "WholeWordMasking",
    "encode_texts",
    "read_lines",
    "read_rows",
    "register_dataset",
    "standard_set",
    "text_batch",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = exports(__name__, __file__)
