"""Metrics that torchmetrics lacks: official scorers as plain functions, and metrics that are reduced over ranks."""

from typing import TYPE_CHECKING

from bert_lightning.lazy import exports

if TYPE_CHECKING:
    from bert_lightning.metrics.classification import (
        ClassificationReport,
        classification_report,
        confusion_matrix,
        matthews,
        multi_label_report,
    )
    from bert_lightning.metrics.correlation import pearson, spearman
    from bert_lightning.metrics.entities import EntityScores, conlleval_report, score_entities
    from bert_lightning.metrics.entity_errors import EntityErrors
    from bert_lightning.metrics.glue import glue_average
    from bert_lightning.metrics.spans import Span, spans_of, strict_spans_of
    from bert_lightning.metrics.squad import best_no_answer_threshold, score_squad_v1, score_squad_v2
    from bert_lightning.metrics.unigram import UnigramBaseline

__all__ = [
    "ClassificationReport",
    "EntityErrors",
    "EntityScores",
    "Span",
    "UnigramBaseline",
    "best_no_answer_threshold",
    "classification_report",
    "confusion_matrix",
    "conlleval_report",
    "glue_average",
    "matthews",
    "multi_label_report",
    "pearson",
    "score_entities",
    "score_squad_v1",
    "score_squad_v2",
    "spans_of",
    "spearman",
    "strict_spans_of",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = exports(__name__, __file__)
