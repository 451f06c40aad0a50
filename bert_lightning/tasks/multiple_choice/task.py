"""One of several choices for a question; paper section 4.4."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch import Tensor

from bert_lightning.data.datasets.examples import ChoiceQuestion
from bert_lightning.data.datasets.readers.choices import read_choices
from bert_lightning.data.loading.batching import Batch
from bert_lightning.data.reading.tables import Row, column
from bert_lightning.data.reading.values import as_text
from bert_lightning.errors import InputError
from bert_lightning.model import BertConfig, BertForMultipleChoice
from bert_lightning.tasks.fine_tuning.data import Part
from bert_lightning.tasks.fine_tuning.one_of_several import OneOfSeveralTask, softmax
from bert_lightning.tasks.fine_tuning.task import Report, rounded
from bert_lightning.tasks.multiple_choice.data import EncodedChoices, MultipleChoiceData
from bert_lightning.text.wordpiece import WordPieceTokenizer

_SHOWN = 20


class MultipleChoiceTask(OneOfSeveralTask):
    """A score for each choice, cross-entropy over the choices of a question; accuracy."""

    name = "multiple-choice"
    monitor = "val/accuracy"
    monitor_mode = "max"
    validation_metrics = ("loss", "accuracy")
    line_columns = ()
    model: BertForMultipleChoice

    def __init__(
        self,
        model: BertForMultipleChoice,
        config: BertConfig,
        tokenizer: WordPieceTokenizer,
        settings: MultipleChoiceData,
    ) -> None:
        super().__init__(model, config, tokenizer, settings)

    def compute(self, batch: Batch) -> Tensor:
        """(B, K) scores; that of a choice that is not there is minus infinity."""
        scores = self.model(batch["input_ids"], batch["token_type_ids"], batch["attention_mask"]).float()
        return scores.masked_fill(~batch["choice_mask"], float("-inf"))

    def outputs_of(self, computed: Tensor, batch: Batch) -> list[Any]:
        """(choices,) scores of each question."""
        numbers = batch["choice_mask"].sum(1).tolist()
        return [row[:number] for row, number in zip(computed.cpu().numpy(), numbers, strict=True)]

    def scores(self, split: Any, outputs: list[Any], part: Part) -> dict[str, float]:
        """Accuracy."""
        inside = slice(part.start, part.stop)
        right = [
            int(np.argmax(output)) == example.label
            for output, example in zip(outputs[inside], split.examples[inside], strict=True)
        ]
        return {"accuracy": float(np.mean(right))}

    def report(self, split: Any, outputs: list[Any]) -> Report:
        """The surest of the wrong answers."""
        rows = []
        for example, scores in zip(split.examples, outputs, strict=True):
            chosen = int(np.argmax(scores))
            if chosen != example.label:
                question = " ".join(filter(None, (example.context[-80:], example.question)))
                row = [
                    float(softmax(scores)[chosen]),
                    question,
                    example.choices[chosen],
                    example.choices[example.label],
                ]
                rows.append(row)
        rows.sort(key=lambda row: -row[0])
        lines = [f"{len(split.examples) - len(rows):,} of {len(split.examples):,} right"]
        lines += ["", "the surest wrong answers:", ""] if rows else []
        for probability, question, chosen_text, gold in rows[:_SHOWN]:
            lines += [question, f"  {chosen_text}  ({probability:.0%})    gold: {gold}"]
        columns = ["probability", "question", "predicted", "gold"]
        return Report("\n".join(lines), {"wrong answers": (columns, rows[: 10 * _SHOWN])})

    def predictions(self, split: Any, outputs: list[Any]) -> list[dict[str, Any]]:
        """The number of the choice, from 0, its text, and the probability of each."""
        rows = []
        for example, scores in zip(split.examples, outputs, strict=True):
            chosen = int(np.argmax(scores))
            row: dict[str, Any] = {"id": example.id} if example.id else {}
            row |= {"label": chosen, "choice": example.choices[chosen]}
            row["probabilities"] = [rounded(p) for p in softmax(scores)]
            if example.label is not None:
                row["gold"] = example.label
            rows.append(row)
        return rows

    def read_raw(self, source: str) -> Iterator[Row] | None:
        """Questions of a file in any form that training reads."""
        return (
            Row(e.location, {"id": e.id, "context": e.context, "question": e.question, "choices": list(e.choices)})
            for e in read_choices(source)
        )

    def example_of(self, row: Row) -> ChoiceQuestion:
        """A row with `context`, `choices` and perhaps a `question`."""
        choices = row.values.get("choices")
        if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(c, str) for c in choices):
            raise InputError(f"{row.location}: choices is {choices!r}; a list of at least two texts is expected")
        choices = [as_text(row.location, "one of the choices", choice) for choice in choices]
        question = column(row, "question") if row.values.get("question") is not None else ""
        identifier = column(row, "id") if row.values.get("id") is not None else ""
        return ChoiceQuestion(row.location, identifier, column(row, "context"), question, tuple(choices), None)

    def encode(self, examples: list[ChoiceQuestion]) -> EncodedChoices:
        """Questions to features."""
        return EncodedChoices(examples, self.tokenizer, self.settings)
