"""Multiple choice: one of several choices for a question; paper section 4.4."""

from collections.abc import Iterator

import numpy as np
from torch import Tensor

from bert_lightning.data.datasets.examples import ChoiceQuestion
from bert_lightning.data.datasets.readers.choices import read_choices
from bert_lightning.data.loading.batching import Batch
from bert_lightning.data.reading.tables import Row, column
from bert_lightning.data.reading.values import as_text
from bert_lightning.errors import InputError
from bert_lightning.model import BertConfig, BertForMultipleChoice
from bert_lightning.tasks.explained import Explained
from bert_lightning.tasks.fine_tuning.one_of_several import OneOfSeveralTask, softmax
from bert_lightning.tasks.fine_tuning.report import Report, rounded
from bert_lightning.tasks.fine_tuning.splits import Subset
from bert_lightning.tasks.fine_tuning.task import Logits
from bert_lightning.tasks.multiple_choice.data import EncodedChoices
from bert_lightning.tasks.multiple_choice.explained import explained_choice
from bert_lightning.tasks.multiple_choice.settings import MultipleChoiceData
from bert_lightning.tasks.task import Optimization
from bert_lightning.text.wordpiece import WordPieceTokenizer

_NUM_SHOWN, _NUM_REPORTED = 20, 200


class MultipleChoiceTask(OneOfSeveralTask[EncodedChoices]):
    """Multiple choice with one score per choice and a cross-entropy over the choices. The metric is accuracy."""

    name = "multiple-choice"
    monitor = "val/accuracy"
    monitor_mode = "max"
    validation_metrics = ("loss", "accuracy")
    line_columns = ()
    model: BertForMultipleChoice
    settings: MultipleChoiceData

    def __init__(
        self,
        model: BertForMultipleChoice,
        config: BertConfig,
        tokenizer: WordPieceTokenizer,
        settings: MultipleChoiceData,
        *,
        optimization: Optimization | None = None,
    ) -> None:
        super().__init__(model, config, tokenizer, settings, optimization=optimization)

    def compute(self, batch: Batch) -> Tensor:
        """Return (B, K) scores, minus infinity for missing choices."""
        scores = self.model(batch["input_ids"], batch["token_type_ids"], batch["attention_mask"]).float()
        return scores.masked_fill(~batch["choice_mask"], float("-inf"))

    def outputs_of(self, computed: Tensor, batch: Batch) -> list[Logits]:
        """Return (choices,) the scores of each question."""
        numbers = batch["choice_mask"].sum(1).tolist()
        return [scores[:number] for scores, number in zip(computed.cpu().numpy(), numbers, strict=True)]

    def scores(self, split: EncodedChoices, outputs: list[Logits], subset: Subset) -> dict[str, float]:
        """Return the accuracy."""
        right = [
            int(np.argmax(output)) == example.label
            for output, example in zip(outputs[subset.examples], split.examples[subset.examples], strict=True)
        ]
        return {"accuracy": float(np.mean(right))}

    def report(self, split: EncodedChoices, outputs: list[Logits]) -> Report:
        """Report the wrong answers, those with the highest probability first."""
        rows: list[tuple[float, str, str, str]] = []
        for example, scores in zip(split.examples, outputs, strict=True):
            assert example.label is not None, "only labelled splits have a report"
            chosen = int(np.argmax(scores))
            if chosen != example.label:
                question = " ".join(filter(None, (example.context[-80:], example.question)))
                probability = float(softmax(scores)[chosen])
                rows.append((probability, question, example.choices[chosen], example.choices[example.label]))
        rows.sort(key=lambda row: -row[0])
        lines = [f"{len(split.examples) - len(rows):,} of {len(split.examples):,} right"]
        lines += ["", "wrong answers with the highest probability:", ""] if rows else []
        for probability, question, chosen_text, gold in rows[:_NUM_SHOWN]:
            lines += [question, f"  {chosen_text}  ({probability:.0%})    gold: {gold}"]
        columns = ["probability", "question", "predicted", "gold"]
        return Report("\n".join(lines), {"wrong answers": (columns, rows[:_NUM_REPORTED])})

    def predictions(self, split: EncodedChoices, outputs: list[Logits]) -> list[dict[str, object]]:
        """Return the number of the likeliest choice (from 0), its text, and the probability of each choice."""
        rows = []
        for example, scores in zip(split.examples, outputs, strict=True):
            chosen = int(np.argmax(scores))
            row: dict[str, object] = {"id": example.id} if example.id else {}
            row |= {"label": chosen, "choice": example.choices[chosen]}
            row["probabilities"] = [rounded(p) for p in softmax(scores)]
            if example.label is not None:
                row["gold"] = example.label
            rows.append(row)
        return rows

    def read_raw(self, source: str) -> Iterator[Row] | None:
        """Read the questions of a file in any format that training reads."""
        return (
            Row(e.location, {"id": e.id, "context": e.context, "question": e.question, "choices": list(e.choices)})
            for e in read_choices(source)
        )

    def example_of(self, row: Row) -> ChoiceQuestion:
        """Turn a row with `context`, `choices` and optionally `question` and `id` into an example."""
        choices = row.values.get("choices")
        if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(c, str) for c in choices):
            raise InputError(f"{row.location}: choices is {choices!r}; a list of at least two texts is expected")
        choices = [as_text(row.location, "one of the choices", choice) for choice in choices]
        question = column(row, "question") if row.values.get("question") is not None else ""
        identifier = column(row, "id") if row.values.get("id") is not None else ""
        return ChoiceQuestion(row.location, identifier, column(row, "context"), question, tuple(choices), None)

    def explained(self, row: Row, target: str | None) -> list[Explained]:
        """Return the score of a choice, by default of the likeliest one."""
        return [explained_choice(self, self.example_of(row), target)]

    def encode(self, examples: list[ChoiceQuestion]) -> EncodedChoices:
        return EncodedChoices(examples, self.tokenizer, self.settings)
