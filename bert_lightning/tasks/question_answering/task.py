"""Answers as spans of a text: SQuAD v1.1, and v2.0 where questions may have none."""

import json
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from bert_lightning.checkpoints.native import ENTRY
from bert_lightning.data.datasets.examples import Question
from bert_lightning.data.datasets.readers.questions import read_questions
from bert_lightning.data.loading.batching import Batch
from bert_lightning.data.reading.lines import format_suffix
from bert_lightning.data.reading.tables import Row, column
from bert_lightning.metrics.squad import exact_match, f1, score_squad_v1, score_squad_v2
from bert_lightning.model import BertConfig, BertForQuestionAnswering
from bert_lightning.model.losses import span_losses
from bert_lightning.tasks.fine_tuning.data import Part
from bert_lightning.tasks.fine_tuning.task import FineTuningTask, Report, rounded
from bert_lightning.tasks.question_answering.data import EncodedQuestions, QuestionAnsweringData
from bert_lightning.text.wordpiece import WordPieceTokenizer

_SHOWN = 20


class WindowScores(NamedTuple):
    """The best starts and ends of a window, by piece of the window, and the score of no answer."""

    starts: NDArray[np.int64]
    start_logits: NDArray[np.float32]
    ends: NDArray[np.int64]
    end_logits: NDArray[np.float32]
    null_score: float


class Candidate(NamedTuple):
    """A possible answer."""

    text: str
    score: float
    """start and end logit, summed"""
    start: int
    """character of the text; -1 for no answer"""


class Decoded(NamedTuple):
    """What is made of a question's windows."""

    candidates: list[Candidate]
    """best first, no two of the same text"""
    null_score: float
    """the least over the windows"""
    null_odds: float
    """how much the score of no answer is above the best answer's"""


class QuestionAnsweringTask(FineTuningTask):
    """Start and end of the answer by a softmax each; `run_squad.py`.

    Scores are the official ones in percent: `squad_exact` and `squad_f1`. Where questions may have no answer, these
    are at threshold 0, `squad_best_exact` and `squad_best_f1` at the best thresholds of the same split, and in a test
    `squad_tuned_exact` and `squad_tuned_f1` at the threshold that the last validation found best for F1.

    Attributes:
        no_answer: whether questions may have no answer.
        null_threshold: the best one of the last validation.
    """

    name = "question-answering"
    label_name: ClassVar[str] = "start_positions"
    line_columns: Sequence[str] = ("question", "context")
    model: BertForQuestionAnswering

    def __init__(
        self,
        model: BertForQuestionAnswering,
        config: BertConfig,
        tokenizer: WordPieceTokenizer,
        settings: QuestionAnsweringData,
        no_answer: bool,
        null_threshold: float | None = None,
    ) -> None:
        super().__init__(model, config, tokenizer, settings)
        self.no_answer, self.null_threshold = no_answer, null_threshold
        self._last: tuple[list[Any], list[Decoded]] | None = None
        own = ["answerability_loss"] if model.answer_head is not None else []
        self.num_losses = 1 + len(own)
        self.loss_names = ["span_loss", *own, "accuracy"]
        best = ("squad_best_exact", "squad_best_f1") if no_answer else ()
        self.validation_metrics = ("squad_exact", "squad_f1", *best)
        self.monitor, self.monitor_mode = "val/squad_best_f1" if no_answer else "val/squad_f1", "max"
        self.progress_scores = (("train/accuracy", "exact", ".1%"),)

    @property
    def task_settings(self) -> dict[str, Any]:
        """Whether there may be no answer, the threshold for it, and how examples become features."""
        return {"no_answer": self.no_answer, "null_threshold": self.null_threshold, **super().task_settings}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The threshold of the last validation goes on too."""
        super().on_load_checkpoint(checkpoint)
        self.null_threshold = checkpoint[ENTRY]["task_settings"]["null_threshold"]

    def counts(self, batch: Batch) -> Tensor:
        """Windows, for the losses and the accuracy."""
        return torch.full((self.num_losses + 1,), len(batch["start_positions"]), device=batch["input_ids"].device)

    def compute(self, batch: Batch) -> Any:
        """Start and end logits (B, S), the score of no answer (B,), and that of its own head."""
        return self.model(batch["input_ids"], batch["token_type_ids"], batch["attention_mask"])

    def sums_of(self, computed: Any, batch: Batch) -> Tensor:
        """Span loss, answerability loss where there is such a head, and windows with both ends right."""
        starts, ends, mask = batch["start_positions"], batch["end_positions"], batch["attention_mask"]
        losses = [span_losses(computed.start_logits, computed.end_logits, starts, ends, mask).sum()]
        if computed.answerable_logits is not None:
            losses.append(
                F.binary_cross_entropy_with_logits(
                    computed.answerable_logits.float(), (starts > 0).float(), reduction="sum"
                )
            )
        logits = [_masked(scores.detach(), mask) for scores in (computed.start_logits, computed.end_logits)]
        right = (logits[0].argmax(-1) == starts) & (logits[1].argmax(-1) == ends)
        return torch.stack([*losses, right.sum().to(losses[0].dtype)])

    def outputs_of(self, computed: Any, batch: Batch) -> list[Any]:
        """The `n_best_size` best starts and ends among the pieces of the text, and the score of no answer."""
        text = batch["token_type_ids"].bool()
        if batch["attention_mask"] is not None:
            text = text & batch["attention_mask"].bool()
        # The last piece of the second part is [SEP].
        first, length = text.int().argmax(1), text.sum(1) - 1
        limit = min(self.settings.n_best_size, text.shape[1])
        places = torch.arange(text.shape[1], device=text.device)
        inside = text & (places < (first + length)[:, None])
        best = [
            scores.float().masked_fill(~inside, float("-inf")).topk(limit)
            for scores in (computed.start_logits, computed.end_logits)
        ]
        null = (
            computed.null_scores.float()
            if computed.answerable_logits is None
            else -computed.answerable_logits.float()
        )
        columns = [(b.indices - first[:, None]).cpu().numpy() for b in best], [b.values.cpu().numpy() for b in best]
        nulls = null.tolist()
        outputs = []
        for row in range(len(nulls)):
            kept = [np.isfinite(values[row]) for values in columns[1]]
            starts, ends = [
                (places[row][valid], values[row][valid]) for places, values, valid in zip(*columns, kept, strict=True)
            ]
            outputs.append(WindowScores(*starts, *ends, null_score=nulls[row]))
        return outputs

    # -- answers -------------------------------------------------------------------------------------------------

    def decode(self, split: EncodedQuestions, outputs: list[Any]) -> list[Decoded]:
        """The n best answers of each question; `run_squad.py: write_predictions`.

        A start counts only in the window where its piece has most context; an end is at the start or behind it, and
        an answer no longer than `max_answer_length` pieces. The text is cut out of the original by character.
        """
        # Scores, files and report ask for the same.
        if self._last is None or self._last[0] is not outputs:
            self._last = outputs, [self._decoded(split, number, outputs) for number in range(len(split.examples))]
        return self._last[1]

    def _decoded(self, split: EncodedQuestions, number: int, outputs: list[Any]) -> Decoded:
        offsets, text = split.contexts[number].offsets, split.examples[number].context
        first, owned = int(split.firsts[number]), split.max_context(number)
        windows: list[NDArray[np.float64]] = []
        for place, mine in enumerate(owned):
            begin, scores = split.windows[first + place].start, outputs[first + place]
            lengths = scores.ends[None, :] - scores.starts[:, None] + 1
            valid = (lengths >= 1) & (lengths <= self.settings.max_answer_length) & mine[scores.starts][:, None]
            i, j = np.nonzero(valid)
            sums = scores.start_logits[i].astype(np.float64) + scores.end_logits[j]
            windows.append(np.stack([sums, begin + scores.starts[i], begin + scores.ends[j]]))
        found = np.concatenate(windows, axis=1)
        found = found[:, np.argsort(-found[0], kind="stable")]
        candidates: dict[str, Candidate] = {}
        for score, start, end in zip(found[0].tolist(), *found[1:].astype(np.int64).tolist(), strict=True):
            begin = int(offsets[start, 0])
            answer = text[begin : int(offsets[end, 1])]
            candidates.setdefault(answer, Candidate(answer, score, begin))
            if len(candidates) == self.settings.n_best_size:
                break
        null_score = min(output.null_score for output in outputs[first : first + len(owned)])
        best = list(candidates.values())
        if self.model.answer_head is not None:
            odds = null_score
        else:
            odds = null_score - best[0].score if best else float("inf")
        return Decoded(best, null_score, odds)

    @property
    def _threshold(self) -> float:
        if self.settings.null_threshold is not None:
            return float(self.settings.null_threshold)
        return self.null_threshold or 0.0

    def _answer(self, decoded: Decoded, threshold: float) -> str:
        if not decoded.candidates or (self.no_answer and decoded.null_odds > threshold):
            return ""
        return decoded.candidates[0].text

    # -- scores --------------------------------------------------------------------------------------------------

    def scores(self, split: Any, outputs: list[Any], part: Part) -> dict[str, float]:
        """The official scores in percent."""
        decoded = self.decode(split, outputs)
        examples = split.examples
        gold = {e.id: [answer.text for answer in e.answers] for e in examples}
        texts = {e.id: d.candidates[0].text if d.candidates else "" for e, d in zip(examples, decoded, strict=True)}
        if not self.no_answer:
            result = score_squad_v1(gold, texts)
            return {"squad_exact": result["exact_match"], "squad_f1": result["f1"]}
        # A number in place of infinity, which no sum can hold.
        odds = {e.id: min(d.null_odds, 1e9) for e, d in zip(examples, decoded, strict=True)}
        official = score_squad_v2(gold, texts, odds, 0.0)
        names = {
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
        scores = {f"squad_{name}": float(official[key]) for key, name in names.items() if key in official}
        if self.trainer.testing:
            tuned = score_squad_v2(gold, texts, odds, self._threshold)
            scores |= {"squad_tuned_exact": tuned["exact"], "squad_tuned_f1": tuned["f1"]}
        else:
            self.null_threshold = scores["squad_best_f1_threshold"]
        return scores

    def report(self, split: Any, outputs: list[Any]) -> Report:
        """Questions with their answers, those that are wrong first."""
        rows = []
        for example, decoded in zip(split.examples, self.decode(split, outputs), strict=True):
            answer = self._answer(decoded, self._threshold)
            gold = [each.text for each in example.answers] or [""]
            rows.append(
                [
                    float(max(exact_match(answer, each) for each in ([each] for each in gold))),
                    float(max(f1(answer, [each]) for each in gold)),
                    example.question,
                    answer,
                    self._probability(decoded, answer),
                    gold[0],
                ]
            )
        wrong = sorted(rows, key=lambda row: (row[1], -row[4]))[: 10 * _SHOWN]
        lines = ["the surest wrong answers:", ""] if wrong and wrong[0][1] < 1 else ["every answer is right"]
        for _, score, question, answer, probability, gold_answer in wrong[:_SHOWN]:
            if score == 1:
                break
            lines += [
                question,
                f"  {answer or '(no answer)'}  ({probability:.0%})    gold: {gold_answer or '(no answer)'}",
            ]
        columns = ["exact", "f1", "question", "predicted", "probability", "gold"]
        return Report("\n".join(lines), {"questions": (columns, wrong)})

    def _nbest(self, decoded: Decoded) -> list[dict[str, Any]]:
        """The candidates, no answer among them where there may be none, with probabilities over them all."""
        rows = list(decoded.candidates)
        if self.no_answer or not rows:
            best = rows[0].score if rows else 0.0
            score = best + decoded.null_odds if np.isfinite(decoded.null_odds) else decoded.null_score
            rows.append(Candidate("", score, -1))
        rows.sort(key=lambda row: -row.score)
        exponentials = np.exp(np.array([row.score for row in rows]) - rows[0].score)
        chances = exponentials / exponentials.sum()
        return [
            {"text": row.text, "probability": rounded(p), "score": rounded(row.score), "start": row.start}
            for row, p in zip(rows, chances, strict=True)
        ]

    def _probability(self, decoded: Decoded, answer: str) -> float:
        return next((row["probability"] for row in self._nbest(decoded) if row["text"] == answer), 0.0)

    def predictions(self, split: Any, outputs: list[Any]) -> list[dict[str, Any]]:
        """The answer, where it starts, its probability, and the runners-up."""
        rows = []
        for example, decoded in zip(split.examples, self.decode(split, outputs), strict=True):
            answer, nbest = self._answer(decoded, self._threshold), self._nbest(decoded)
            chosen = next((each for each in nbest if each["text"] == answer), {"start": -1, "probability": 0.0})
            row: dict[str, Any] = {"id": example.id} if example.id else {}
            row |= {"question": example.question, "answer": answer, "start": chosen["start"]}
            row["probability"] = chosen["probability"]
            if self.no_answer:
                row["null_odds"] = rounded(decoded.null_odds) if np.isfinite(decoded.null_odds) else None
            row["nbest"] = nbest[:5]
            if split.is_labelled:
                row["gold"] = [each.text for each in example.answers]
            rows.append(row)
        return rows

    def files(self, split: Any, outputs: list[Any]) -> dict[str, str]:
        """What `run_squad.py` writes and the official scorers read."""
        decoded = dict(zip([e.id for e in split.examples], self.decode(split, outputs), strict=True))
        files: dict[str, Any] = {
            "predictions.json": {id: self._answer(each, self._threshold) for id, each in decoded.items()},
            "nbest_predictions.json": {id: self._nbest(each) for id, each in decoded.items()},
        }
        if self.no_answer:
            files["null_odds.json"] = {id: min(each.null_odds, 1e9) for id, each in decoded.items()}
        return {name: json.dumps(content, ensure_ascii=False, indent=1) + "\n" for name, content in files.items()}

    def read_raw(self, source: str) -> Iterator[Row] | None:
        """Questions of a SQuAD file."""
        if format_suffix(source) != ".json":
            return None
        return (
            Row(each.location, {"id": each.id, "question": each.question, "context": each.context})
            for each in read_questions(source, labelled=False)
        )

    def example_of(self, row: Row) -> Question:
        """A row with `question` and `context`."""
        identifier = column(row, "id") if row.values.get("id") is not None else ""
        return Question(row.location, identifier, column(row, "question"), column(row, "context"), (), False, "")

    def encode(self, examples: list[Question]) -> EncodedQuestions:
        """Questions to features."""
        return EncodedQuestions(examples, self.tokenizer, self.settings, labelled=False)


def _masked(scores: Tensor, mask: Tensor | None) -> Tensor:
    return scores if mask is None else scores.masked_fill(mask == 0, torch.finfo(scores.dtype).min)
