"""Relation classification: the relation between two marked entities of a text."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from bert_lightning.data.datasets.examples import RelationExample
from bert_lightning.data.datasets.readers.relations import relation_of
from bert_lightning.data.loading.batching import Batch
from bert_lightning.data.reading.tables import Row
from bert_lightning.metrics.classification import classification_report, confusion_matrix
from bert_lightning.model import BertConfig, BertForRelationClassification
from bert_lightning.tasks.explained import Explained
from bert_lightning.tasks.fine_tuning.one_of_several import OneOfSeveralTask, softmax
from bert_lightning.tasks.fine_tuning.report import Report, rounded
from bert_lightning.tasks.fine_tuning.splits import Subset
from bert_lightning.tasks.fine_tuning.task import Logits
from bert_lightning.tasks.relation_classification.data import EncodedRelations
from bert_lightning.tasks.relation_classification.explained import explained_relation
from bert_lightning.tasks.relation_classification.settings import RelationClassificationData
from bert_lightning.tasks.task import Optimization
from bert_lightning.text.wordpiece import WordPieceTokenizer

# Labels of SemEval-2010 task 8 name a relation and its direction: `Cause-Effect(e2,e1)`.
_DIRECTION = re.compile(r"\((e1,e2|e2,e1)\)$")


class _Counts(NamedTuple):
    """Counts of one relation."""

    right: int
    gold: int
    predicted: int

    @property
    def f1(self) -> float:
        """F1; 0 if the relation neither occurs nor is predicted."""
        return 2 * self.right / max(self.gold + self.predicted, 1)


class RelationClassificationTask(OneOfSeveralTask[EncodedRelations]):
    """Relation classification with a linear layer on the states of the two start markers.

    The model is that of Baldini Soares et al. 2019, section 3.2.

    F1 leaves out `negative_label`. Macro F1 is that of the official scorer of SemEval-2010 task 8. It counts the two
    directions of a relation as one relation, but a prediction is right only in the right direction. Micro F1 is that
    of TACRED's scorer.

    Attributes:
        labels: relations in the order of their ids.
    """

    name = "relation-classification"
    monitor = "val/macro_f1"
    monitor_mode = "max"
    validation_metrics = ("loss", "macro_f1", "micro_f1", "accuracy")
    model: BertForRelationClassification
    settings: RelationClassificationData

    def __init__(
        self,
        model: BertForRelationClassification,
        config: BertConfig,
        tokenizer: WordPieceTokenizer,
        settings: RelationClassificationData,
        labels: Sequence[str],
        *,
        optimization: Optimization | None = None,
    ) -> None:
        super().__init__(model, config, tokenizer, settings, optimization=optimization)
        self.labels = list(labels)
        self.line_columns = (settings.text_column or "text",)
        self.relations = [_DIRECTION.sub("", label) for label in self.labels]

    @property
    def task_settings(self) -> dict[str, object]:
        """The labels, and the settings that encode examples."""
        return {"labels": self.labels, **super().task_settings}

    def compute(self, batch: Batch) -> Tensor:
        """Return (B, L) logits."""
        return self.model(
            batch["input_ids"],
            batch["token_type_ids"],
            batch["attention_mask"],
            entity_positions=batch["entity_positions"],
        ).float()

    def outputs_of(self, computed: Tensor, batch: Batch) -> list[Logits]:
        """Return (L,) the logits of each text."""
        return list(computed.cpu().numpy())

    def scores(self, split: EncodedRelations, outputs: list[Logits], subset: Subset) -> dict[str, float]:
        """Return macro and micro F1 over relations, and the accuracy over all labels."""
        assert split.labels is not None, "only labelled splits are scored"
        gold, guess = split.labels[subset.examples], np.stack(outputs[subset.examples]).argmax(-1)
        counts = []
        for relation in dict.fromkeys(self.relations):
            if relation != self.settings.negative:
                has_relation = np.array([each == relation for each in self.relations])
                num_right = int(((gold == guess) & has_relation[gold]).sum())
                counts.append(_Counts(num_right, int(has_relation[gold].sum()), int(has_relation[guess].sum())))
        return {
            "macro_f1": float(np.mean([each.f1 for each in counts])),
            "micro_f1": _Counts(*np.sum(counts, axis=0).tolist()).f1,
            "accuracy": float((gold == guess).mean()),
        }

    def report(self, split: EncodedRelations, outputs: list[Logits]) -> Report:
        """Report the scores per label, with the two directions of a relation apart, and the confusion matrix."""
        assert split.labels is not None, "only labelled splits have a report"
        confusion = confusion_matrix(split.labels, np.stack(outputs).argmax(-1), len(self.labels))
        report = classification_report(confusion, self.labels)
        rows = [[label, *score] for label, score in report.per_label.items()]
        columns = ["relation", "precision", "recall", "f1", "support"]
        return Report("\n".join(report.lines()), {"relations": (columns, rows)}, (self.labels, confusion))

    def predictions(self, split: EncodedRelations, outputs: list[Logits]) -> list[dict[str, object]]:
        """Return the likeliest relation and the probability of each."""
        rows = []
        for example, logits in zip(split.examples, outputs, strict=True):
            row: dict[str, object] = {"id": example.id} if example.id else {}
            row |= {
                "text": example.text,
                "first": example.text[slice(*example.first)],
                "second": example.text[slice(*example.second)],
                "label": self.labels[int(np.argmax(logits))],
                "probabilities": {label: rounded(p) for label, p in zip(self.labels, softmax(logits), strict=True)},
            }
            if example.label is not None:
                row["gold"] = example.label
            rows.append(row)
        return rows

    def example_of(self, row: Row) -> RelationExample:
        """Turn a row whose text holds <e1>...</e1> and <e2>...</e2>, or one in TACRED's format, into an example."""
        return relation_of(row, "", self.settings.text_column)._replace(label=None)

    def explained(self, row: Row, target: str | None) -> list[Explained]:
        """Return the logit of a relation, by default of the likeliest one."""
        return [explained_relation(self, self.example_of(row), target)]

    def encode(self, examples: list[RelationExample]) -> EncodedRelations:
        return EncodedRelations(examples, self.tokenizer, self.settings, self.labels)
