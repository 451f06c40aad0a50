"""Extractive question answering: SQuAD v1.1, and v2.0, in which questions may have no answer."""

import json
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bert_lightning.checkpoints.native import ENTRY
from bert_lightning.data.datasets.examples import Question
from bert_lightning.data.datasets.readers.questions import read_questions
from bert_lightning.data.loading.batching import Batch
from bert_lightning.data.reading.lines import format_suffix
from bert_lightning.data.reading.tables import Row, column
from bert_lightning.metrics.squad import exact_match, f1, f1_or_both_empty, score_squad_v1, score_squad_v2
from bert_lightning.model import BertConfig, BertForQuestionAnswering
from bert_lightning.model.losses import span_losses
from bert_lightning.model.task_models import SpanOutput
from bert_lightning.tasks.distributions import Distribution, each_of
from bert_lightning.tasks.explained import Explained
from bert_lightning.tasks.fine_tuning.report import Report, rounded
from bert_lightning.tasks.fine_tuning.splits import Subset
from bert_lightning.tasks.fine_tuning.task import FineTuningTask
from bert_lightning.tasks.question_answering.data import EncodedQuestions
from bert_lightning.tasks.question_answering.decoding import (
    Answers,
    WindowScores,
    best_starts_and_ends,
    decode,
    find_answer,
)
from bert_lightning.tasks.question_answering.explained import explained_answer
from bert_lightning.tasks.question_answering.settings import QuestionAnsweringData
from bert_lightning.tasks.task import Optimization
from bert_lightning.text.wordpiece import WordPieceTokenizer

_NUM_SHOWN, _NUM_REPORTED = 20, 200
# Replaces infinite odds in files and in scores.
_MAX_ODDS = 1e9
# Official name of a score -> our name.
_V2_NAMES = {
    "exact": "exact",
    "f1": "f1",
    "HasAns_exact": "has_answer_exact",
    "HasAns_f1": "has_answer_f1",
    "NoAns_exact": "no_answer_exact",
    "NoAns_f1": "no_answer_f1",
    "best_exact": "best_exact",
    "best_exact_thresh": "best_exact_threshold",
    "best_f1": "best_f1",
    "best_f1_thresh": "best_f1_threshold",
}


class QuestionAnsweringTask(FineTuningTask[EncodedQuestions, WindowScores, SpanOutput]):
    """Extractive question answering, with one softmax for the start and one for the end, as in `run_squad.py`.

    Scores are the official ones in percent: `squad_exact` and `squad_f1`. If questions may have no answer, these are
    at threshold 0. Then there are also `squad_best_exact` and `squad_best_f1` at the best thresholds of the same
    split. A test also has `squad_tuned_exact` and `squad_tuned_f1`, at the best threshold for F1 of the last
    validation.

    Attributes:
        no_answer: whether questions may have no answer.
        null_threshold: the best threshold of the last validation.
    """

    name = "question-answering"
    label_name: ClassVar[str] = "start_positions"
    line_columns: Sequence[str] = ("question", "context")
    model: BertForQuestionAnswering
    settings: QuestionAnsweringData
    loss_obstacle = None

    def __init__(
        self,
        model: BertForQuestionAnswering,
        config: BertConfig,
        tokenizer: WordPieceTokenizer,
        settings: QuestionAnsweringData,
        no_answer: bool,
        null_threshold: float | None = None,
        *,
        optimization: Optimization | None = None,
    ) -> None:
        super().__init__(model, config, tokenizer, settings, optimization=optimization)
        self.no_answer, self.null_threshold = no_answer, null_threshold
        self._last: tuple[list[WindowScores], list[Answers]] | None = None
        head_losses = ["answerability_loss"] if model.answer_head is not None else []
        self.num_losses = 1 + len(head_losses)
        self.loss_names = ["span_loss", *head_losses, "accuracy"]
        best = ("squad_best_exact", "squad_best_f1") if no_answer else ()
        self.validation_metrics = ("squad_exact", "squad_f1", *best)
        self.monitor, self.monitor_mode = "val/squad_best_f1" if no_answer else "val/squad_f1", "max"
        self.progress_scores = (("train/accuracy", "exact", ".1%"),)

    @property
    def task_settings(self) -> dict[str, object]:
        """The settings that encode examples, whether questions may have no answer, and the threshold for that."""
        return {"no_answer": self.no_answer, "null_threshold": self.null_threshold, **super().task_settings}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the threshold of the last validation too."""
        super().on_load_checkpoint(checkpoint)
        self.null_threshold = checkpoint[ENTRY]["task_settings"]["null_threshold"]

    def counts(self, batch: Batch) -> Tensor:
        """Count windows, once per loss and once for the accuracy."""
        return torch.full((self.num_losses + 1,), len(batch["start_positions"]), device=batch["input_ids"].device)

    def compute(self, batch: Batch) -> SpanOutput:
        """Return start and end logits (B, S), the score of "no answer" (B,), and the answer head's logit (B,)."""
        output: SpanOutput = self.model(batch["input_ids"], batch["token_type_ids"], batch["attention_mask"])
        return output

    def sums_of(self, computed: SpanOutput, batch: Batch) -> Tensor:
        """Sum the span loss and that of the answer head, and count the windows with both ends right."""
        starts, ends, mask = batch["start_positions"], batch["end_positions"], batch["attention_mask"]
        losses = [span_losses(computed.start_logits, computed.end_logits, starts, ends, mask, self.loss).sum()]
        if computed.answerable_logits is not None:
            losses.append(
                F.binary_cross_entropy_with_logits(
                    computed.answerable_logits.float(), (starts > 0).float(), reduction="sum"
                )
            )
        logits = [_masked(scores.detach(), mask) for scores in (computed.start_logits, computed.end_logits)]
        right = (logits[0].argmax(-1) == starts) & (logits[1].argmax(-1) == ends)
        return torch.stack([*losses, right.sum().to(losses[0].dtype)])

    @property
    def distribution_names(self) -> Sequence[str]:
        """All losses."""
        return self.loss_names[: self.num_losses]

    def distribution_counts(self, batch: Batch) -> Tensor:
        """Count windows, once per loss."""
        return self.counts(batch)[: self.num_losses]

    def distributions(self, computed: SpanOutput, batch: Batch) -> list[Distribution]:
        """Return the probabilities of the start and the end over all tokens but padding, and of an answer."""
        mask = batch["attention_mask"]
        spans = torch.stack([computed.start_logits, computed.end_logits], 1)
        found = [Distribution(spans, possible=None if mask is None else mask.bool()[:, None])]
        if computed.answerable_logits is not None:
            found.append(each_of(computed.answerable_logits[:, None]))
        return found

    def outputs_of(self, computed: SpanOutput, batch: Batch) -> list[WindowScores]:
        """Return the `n_best_size` best starts and ends in the text of each window, and the score of "no answer"."""
        is_text = batch["token_type_ids"].bool()
        if batch["attention_mask"] is not None:
            is_text = is_text & batch["attention_mask"].bool()
        null_scores = computed.null_scores if computed.answerable_logits is None else -computed.answerable_logits
        return best_starts_and_ends(
            computed.start_logits, computed.end_logits, null_scores, is_text, self.settings.n_best_size
        )

    # -- answers -------------------------------------------------------------------------------------------------

    def decode(self, split: EncodedQuestions, outputs: list[WindowScores]) -> list[Answers]:
        """Return the possible answers of each question (`decoding.py`)."""
        # Scores, files and report need the same answers, so decode them once.
        if self._last is None or self._last[0] is not outputs:
            self._last = outputs, decode(split, outputs, has_answer_head=self.model.answer_head is not None)
        return self._last[1]

    @property
    def threshold(self) -> float:
        """The null odds above which a question gets no answer; infinite if every question has one."""
        if not self.no_answer:
            return float("inf")
        if self.settings.null_threshold is not None:
            return float(self.settings.null_threshold)
        return self.null_threshold or 0.0

    # -- scores --------------------------------------------------------------------------------------------------

    def scores(self, split: EncodedQuestions, outputs: list[WindowScores], subset: Subset) -> dict[str, float]:
        """Return the official scores in percent."""
        answers = dict(zip((example.id for example in split.examples), self.decode(split, outputs), strict=True))
        gold = {example.id: [answer.text for answer in example.answers] for example in split.examples}
        texts = {id: each.best_text for id, each in answers.items()}
        if not self.no_answer:
            result = score_squad_v1(gold, texts)
            return {"squad_exact": result["exact_match"], "squad_f1": result["f1"]}
        odds = {id: min(each.null_odds, _MAX_ODDS) for id, each in answers.items()}
        official = score_squad_v2(gold, texts, odds, 0.0)
        scores = {f"squad_{name}": float(official[key]) for key, name in _V2_NAMES.items() if key in official}
        # A sequence of tasks is scored after the training, without a Trainer.
        if self._trainer is not None and self.trainer.testing:
            tuned = score_squad_v2(gold, texts, odds, self.threshold)
            scores |= {"squad_tuned_exact": tuned["exact"], "squad_tuned_f1": tuned["f1"]}
        else:
            self.null_threshold = scores["squad_best_f1_threshold"]
        return scores

    def report(self, split: EncodedQuestions, outputs: list[WindowScores]) -> Report:
        """Report questions with their answers, the wrong ones first."""
        rows = [
            _scored_question(example, answers.text_at(self.threshold), answers, self.no_answer)
            for example, answers in zip(split.examples, self.decode(split, outputs), strict=True)
        ]
        rows = sorted(rows, key=lambda row: (row.f1, -row.probability))[:_NUM_REPORTED]
        lines = (
            ["wrong answers with the highest probability:", ""]
            if rows and rows[0].f1 < 1
            else ["every answer is right"]
        )
        for row in rows[:_NUM_SHOWN]:
            if row.f1 == 1:
                break
            predicted, gold = row.predicted or "(no answer)", row.gold or "(no answer)"
            lines += [row.question, f"  {predicted}  ({row.probability:.0%})    gold: {gold}"]
        return Report("\n".join(lines), {"questions": (list(_ScoredQuestion._fields), rows)})

    def predictions(self, split: EncodedQuestions, outputs: list[WindowScores]) -> list[dict[str, object]]:
        """Return the answer of each question, its start, its probability, and the best candidates."""
        rows = []
        for example, answers in zip(split.examples, self.decode(split, outputs), strict=True):
            ranked = answers.ranked(self.no_answer)
            answer = find_answer(ranked, answers.text_at(self.threshold))
            row: dict[str, object] = {"id": example.id} if example.id else {}
            row |= {"question": example.question, "answer": answer.text, "start": answer.start}
            row["probability"] = answer.probability
            if self.no_answer:
                row["null_odds"] = rounded(answers.null_odds) if np.isfinite(answers.null_odds) else None
            row["nbest"] = [each._asdict() for each in ranked[:5]]
            if split.is_labelled:
                row["gold"] = [each.text for each in example.answers]
            rows.append(row)
        return rows

    def files(self, split: EncodedQuestions, outputs: list[WindowScores]) -> dict[str, str]:
        """Return the files that `run_squad.py` writes and the official scorers read."""
        answers = dict(zip((example.id for example in split.examples), self.decode(split, outputs), strict=True))
        files: dict[str, dict[str, object]] = {
            "predictions.json": {id: each.text_at(self.threshold) for id, each in answers.items()},
            "nbest_predictions.json": {
                id: [ranked._asdict() for ranked in each.ranked(self.no_answer)] for id, each in answers.items()
            },
        }
        if self.no_answer:
            files["null_odds.json"] = {id: min(each.null_odds, _MAX_ODDS) for id, each in answers.items()}
        return {name: json.dumps(content, ensure_ascii=False, indent=1) + "\n" for name, content in files.items()}

    def read_raw(self, source: str) -> Iterator[Row] | None:
        """Read the questions of a SQuAD file; return None for other files."""
        if format_suffix(source) != ".json":
            return None
        return (
            Row(each.location, {"id": each.id, "question": each.question, "context": each.context})
            for each in read_questions(source, labelled=False)
        )

    def example_of(self, row: Row) -> Question:
        """Turn a row with `question`, `context` and optionally `id` into an example."""
        identifier = column(row, "id") if row.values.get("id") is not None else ""
        return Question(row.location, identifier, column(row, "question"), column(row, "context"), (), False, "")

    def explained(self, row: Row, target: str | None) -> list[Explained]:
        """Return the score of an answer, by default of the predicted one; an empty target is no answer."""
        return [explained_answer(self, self.example_of(row), target)]

    def encode(self, examples: list[Question]) -> EncodedQuestions:
        return EncodedQuestions(examples, self.tokenizer, self.settings, labelled=False)


class _ScoredQuestion(NamedTuple):
    """A line of the report; the names are those of its columns."""

    exact: float
    f1: float
    question: str
    predicted: str
    probability: float
    gold: str


def _scored_question(example: Question, predicted: str, answers: Answers, no_answer: bool) -> _ScoredQuestion:
    gold = [answer.text for answer in example.answers] or [""]
    # In v2.0, answering nothing is right for a question without an answer.
    overlap = f1_or_both_empty if no_answer else f1
    return _ScoredQuestion(
        float(exact_match(predicted, gold)),
        float(overlap(predicted, gold)),
        example.question,
        predicted,
        find_answer(answers.ranked(no_answer), predicted).probability,
        gold[0],
    )


def _masked(scores: Tensor, mask: Tensor | None) -> Tensor:
    return scores if mask is None else scores.masked_fill(mask == 0, torch.finfo(scores.dtype).min)
