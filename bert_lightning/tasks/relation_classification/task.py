"""The relation between two marked entities of a text."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from bert_lightning.data.datasets.examples import RelationExample
from bert_lightning.data.datasets.readers.relations import relation_of
from bert_lightning.data.loading.batching import Batch
from bert_lightning.data.reading.tables import Row
from bert_lightning.metrics.classification import classification_report, confusion_matrix
from bert_lightning.model import BertConfig, BertForRelationClassification
from bert_lightning.tasks.fine_tuning.data import Part
from bert_lightning.tasks.fine_tuning.one_of_several import OneOfSeveralTask, softmax
from bert_lightning.tasks.fine_tuning.task import Report, rounded
from bert_lightning.tasks.relation_classification.data import EncodedRelations, RelationClassificationData
from bert_lightning.tasks.task import Optimization
from bert_lightning.text.wordpiece import WordPieceTokenizer

# SemEval-2010 task 8 names a relation and which entity is which: `Cause-Effect(e2,e1)`.
_DIRECTION = re.compile(r"\((e1,e2|e2,e1)\)$")


class RelationClassificationTask(OneOfSeveralTask):
    """A linear layer on the states of the two entities' start markers; Baldini Soares et al. 2019, section 3.2.

    F1 is over the relations but `negative_label`, macro as the official scorer of SemEval-2010 task 8 has it: the two
    directions of a relation count as one that is right only in its direction; micro as TACRED's has it.

    Attributes:
        labels: relations in id order.
    """

    name = "relation-classification"
    monitor = "val/macro_f1"
    monitor_mode = "max"
    validation_metrics = ("loss", "macro_f1", "micro_f1", "accuracy")
    model: BertForRelationClassification

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
    def task_settings(self) -> dict[str, Any]:
        """Labels, and how examples become features."""
        return {"labels": self.labels, **super().task_settings}

    def compute(self, batch: Batch) -> Tensor:
        """(B, L) logits."""
        return self.model(
            batch["input_ids"], batch["token_type_ids"], batch["attention_mask"], entity_places=batch["entity_places"]
        ).float()

    def outputs_of(self, computed: Tensor, batch: Batch) -> list[Any]:
        """(L,) logits of each text."""
        return list(computed.cpu().numpy())

    def scores(self, split: Any, outputs: list[Any], part: Part) -> dict[str, float]:
        """Macro and micro F1 over relations, and the accuracy over all labels."""
        inside = slice(part.start, part.stop)
        gold, guess = split.labels[inside], np.stack(outputs[inside]).argmax(-1)
        negative = self.settings.negative
        f1, right, wanted, found = [], 0, 0, 0
        for relation in dict.fromkeys(self.relations):
            if relation == negative:
                continue
            of_it = np.array([each == relation for each in self.relations])
            hits = int(((gold == guess) & of_it[gold]).sum())
            num_gold, num_found = int(of_it[gold].sum()), int(of_it[guess].sum())
            f1.append(2 * hits / max(num_gold + num_found, 1))
            right, wanted, found = right + hits, wanted + num_gold, found + num_found
        return {
            "macro_f1": float(np.mean(f1)),
            "micro_f1": 2 * right / max(wanted + found, 1),
            "accuracy": float((gold == guess).mean()),
        }

    def report(self, split: Any, outputs: list[Any]) -> Report:
        """Scores a label, directions apart, and the confusion matrix."""
        confusion = confusion_matrix(split.labels, np.stack(outputs).argmax(-1), len(self.labels))
        report = classification_report(confusion, self.labels)
        rows = [[label, *score] for label, score in report.per_label.items()]
        columns = ["relation", "precision", "recall", "f1", "support"]
        return Report("\n".join(report.lines()), {"relations": (columns, rows)}, (self.labels, confusion))

    def predictions(self, split: Any, outputs: list[Any]) -> list[dict[str, Any]]:
        """The likeliest relation and the probability of each."""
        rows = []
        for example, logits in zip(split.examples, outputs, strict=True):
            row: dict[str, Any] = {"id": example.id} if example.id else {}
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
        """A row whose text holds <e1>...</e1> and <e2>...</e2>, or one in TACRED's form."""
        return relation_of(row, "", self.settings.text_column)._replace(label=None)

    def encode(self, examples: list[RelationExample]) -> EncodedRelations:
        """Texts to features."""
        return EncodedRelations(examples, self.tokenizer, self.settings, self.labels)
