"""Decoding of the scores of windows into the answers of a question, as in `run_squad.py: write_predictions`."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bert_lightning.tasks.fine_tuning.report import rounded
from bert_lightning.tasks.question_answering.data import EncodedQuestions


class WindowScores(NamedTuple):
    """The best starts and ends of the answer in a window.

    Attributes:
        starts: (N,) pieces of the window's text, counted from 0.
        start_logits: (N,)
        ends: (N,) pieces of the window's text.
        end_logits: (N,)
        null_score: the score of no answer.
    """

    starts: NDArray[np.int64]
    start_logits: NDArray[np.float32]
    ends: NDArray[np.int64]
    end_logits: NDArray[np.float32]
    null_score: float


class Candidate(NamedTuple):
    """A possible answer.

    Attributes:
        text: empty for no answer.
        score: the sum of the start and the end logit.
        start: character of the context; -1 for no answer.
    """

    text: str
    score: float
    start: int


class RankedAnswer(NamedTuple):
    """A candidate with its probability among all candidates of its question. Numbers are rounded for output."""

    text: str
    probability: float
    score: float
    start: int


class Answers(NamedTuple):
    """The possible answers of one question.

    Attributes:
        candidates: the best first, no two with the same text.
        null_score: the least score of "no answer" over the windows.
        null_odds: the score of "no answer" minus that of the best candidate; see `decode` for an answer head.
    """

    candidates: list[Candidate]
    null_score: float
    null_odds: float

    @property
    def best_text(self) -> str:
        """The text of the best candidate; empty without candidates."""
        return self.candidates[0].text if self.candidates else ""

    def text_at(self, threshold: float) -> str:
        """Return the best text, or an empty text if `null_odds` is above the threshold."""
        return "" if self.null_odds > threshold else self.best_text

    def ranked(self, no_answer: bool) -> list[RankedAnswer]:
        """Return the candidates with probabilities, the likeliest first.

        Args:
            no_answer: whether "no answer" is a candidate too. If there is no other candidate, it always is one.
        """
        candidates = list(self.candidates)
        if no_answer or not candidates:
            best = candidates[0].score if candidates else 0.0
            score = best + self.null_odds if np.isfinite(self.null_odds) else self.null_score
            candidates.append(Candidate("", score, -1))
        candidates.sort(key=lambda candidate: -candidate.score)
        exponentials = np.exp(np.array([candidate.score for candidate in candidates]) - candidates[0].score)
        probabilities = exponentials / exponentials.sum()
        return [
            RankedAnswer(candidate.text, rounded(probability), rounded(candidate.score), candidate.start)
            for candidate, probability in zip(candidates, probabilities, strict=True)
        ]


def find_answer(ranked: Sequence[RankedAnswer], text: str) -> RankedAnswer:
    """Return the answer with a text; one with probability 0 if it is not among the ranked ones."""
    return next((each for each in ranked if each.text == text), RankedAnswer(text, 0.0, 0.0, -1))


def best_starts_and_ends(
    start_logits: Tensor, end_logits: Tensor, null_scores: Tensor, is_text: Tensor, n_best_size: int
) -> list[WindowScores]:
    """Select the best starts and ends of each window among the pieces of its text.

    Args:
        start_logits: (B, S)
        end_logits: (B, S)
        null_scores: (B,) scores of "no answer".
        is_text: (B, S) True at the text and at the [SEP] after it.
        n_best_size: number of starts, and number of ends, per window.
    """
    first = is_text.int().argmax(1)
    # The last position is that of [SEP].
    stop = first + is_text.sum(1) - 1
    positions = torch.arange(is_text.shape[1], device=is_text.device)
    inside = is_text & (positions < stop[:, None])
    limit = min(n_best_size, is_text.shape[1])

    def best(logits: Tensor) -> list[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Return pieces and logits of each window, the best first."""
        values, indices = logits.float().masked_fill(~inside, float("-inf")).topk(limit)
        pairs = zip((indices - first[:, None]).cpu().numpy(), values.cpu().numpy(), strict=True)
        # A short text has fewer pieces than `limit`.
        return [(pieces[np.isfinite(logits)], logits[np.isfinite(logits)]) for pieces, logits in pairs]

    windows = zip(best(start_logits), best(end_logits), null_scores.float().tolist(), strict=True)
    return [WindowScores(*starts, *ends, null_score) for starts, ends, null_score in windows]


def decode(split: EncodedQuestions, outputs: Sequence[WindowScores], *, has_answer_head: bool) -> list[Answers]:
    """Return the `n_best_size` best answers of each question.

    A start counts only in the window in which its piece has most context. An end is not before the start, and an
    answer has at most `max_answer_length` pieces. The text of the answer is copied from the original context.

    Args:
        split: the questions.
        outputs: the scores of each window.
        has_answer_head: whether a separate head scores "no answer". If so, `null_odds` is this score alone. Otherwise
            it is the difference from the score of the best answer.
    """
    return [_decode_question(split, number, outputs, has_answer_head) for number in range(len(split.examples))]


def _decode_question(
    split: EncodedQuestions, number: int, outputs: Sequence[WindowScores], has_answer_head: bool
) -> Answers:
    windows = slice(int(split.firsts[number]), int(split.firsts[number + 1]))
    scores, starts, ends = _scored_pairs(split, number, outputs[windows])
    offsets, context = split.contexts[number].offsets, split.examples[number].context
    candidates: dict[str, Candidate] = {}
    for score, start, end in zip(scores.tolist(), starts.tolist(), ends.tolist(), strict=True):
        begin = int(offsets[start, 0])
        text = context[begin : int(offsets[end, 1])]
        # The first candidate of a text is its best one.
        candidates.setdefault(text, Candidate(text, score, begin))
        if len(candidates) == split.settings.n_best_size:
            break
    best = list(candidates.values())
    null_score = min(output.null_score for output in outputs[windows])
    if has_answer_head:
        return Answers(best, null_score, null_odds=null_score)
    return Answers(best, null_score, null_odds=null_score - best[0].score if best else float("inf"))


def _scored_pairs(
    split: EncodedQuestions, number: int, outputs: Sequence[WindowScores]
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Return the scores of all valid pairs of start and end, the best first, with their pieces in the context."""
    scores, starts, ends = [], [], []
    windows = split.windows[split.firsts[number] : split.firsts[number + 1]]
    for window, output, has_most_context in zip(windows, outputs, split.max_context(number), strict=True):
        lengths = output.ends[None, :] - output.starts[:, None] + 1
        is_valid = (lengths >= 1) & (lengths <= split.settings.max_answer_length)
        i, j = np.nonzero(is_valid & has_most_context[output.starts][:, None])
        scores.append(output.start_logits[i].astype(np.float64) + output.end_logits[j])
        starts.append(window.start + output.starts[i])
        ends.append(window.start + output.ends[j])
    all_scores = np.concatenate(scores)
    order = np.argsort(-all_scores, kind="stable")
    return all_scores[order], np.concatenate(starts)[order], np.concatenate(ends)[order]
