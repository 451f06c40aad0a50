"""Scores of question answering, equal to those of evaluate-v1.1.py and evaluate-v2.0.py in the last bit.

Both scripts are Rajpurkar et al.'s (2016, 2018). Sums run in the order of the questions, as theirs do.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from bert_lightning.errors import InputError

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalize_answer(text: str) -> str:
    """Lower case, without ASCII punctuation, the words a, an and the, and superfluous white space, in this order."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, answers: Sequence[str]) -> int:
    """1 if the prediction is, normalised, one of the gold answers, else 0."""
    return max(int(normalize_answer(prediction) == normalize_answer(answer)) for answer in answers)


def f1(prediction: str, answers: Sequence[str]) -> float:
    """F1 over the tokens of prediction and gold answer, the best of all answers, 0 to 1.

    0 where no token is shared, so also where neither side has a token: that is v1.1; see `f1_or_both_empty`.
    """
    return max(_token_f1(_tokens(prediction), _tokens(answer)) for answer in answers)


def f1_or_both_empty(prediction: str, answers: Sequence[str]) -> float:
    """As `f1`, but 1 where neither side has a token: v2.0, whose empty answer says that there is none."""
    predicted = _tokens(prediction)
    return max(
        _token_f1(predicted, tokens) if predicted and tokens else float(predicted == tokens)
        for tokens in map(_tokens, answers)
    )


def _tokens(text: str) -> list[str]:
    return normalize_answer(text).split()


def _token_f1(predicted: list[str], gold: list[str]) -> float:
    num_same = (Counter(predicted) & Counter(gold)).total()
    if not num_same:
        return 0.0
    precision, recall = num_same / len(predicted), num_same / len(gold)
    return 2 * precision * recall / (precision + recall)


def score_squad_v1(answers: Mapping[str, Sequence[str]], predictions: Mapping[str, str]) -> dict[str, float]:
    """`exact_match` and `f1` in percent, as evaluate-v1.1.py.

    Args:
        answers: question id -> gold answers, in the order of the data set.
        predictions: question id -> answer. A question without one scores 0; other ids are ignored.

    Raises:
        InputError: no question, or a predicted one without gold answers.
    """
    _check_any(answers)
    total_exact, total_f1 = 0, 0.0
    for question, texts in answers.items():
        if question in predictions:
            if not texts:
                raise InputError(f"the question {question!r} has no answer, which v1.1 does not know: is this v2.0?")
            total_exact += exact_match(predictions[question], texts)
            # Not sum(), which rounds otherwise than the script from Python 3.12 on.
            total_f1 += f1(predictions[question], texts)
    return {"exact_match": 100.0 * total_exact / len(answers), "f1": 100.0 * total_f1 / len(answers)}


def score_squad_v2(
    answers: Mapping[str, Sequence[str]],
    predictions: Mapping[str, str],
    no_answer_probabilities: Mapping[str, float] | None = None,
    threshold: float = 1.0,
) -> dict[str, float]:
    """The report of evaluate-v2.0.py, with its keys in its order; scores in percent, totals as whole numbers.

    `HasAns_*` and `NoAns_*` are there if there are such questions, `best_*` with probabilities. A prediction counts
    as empty where its no-answer probability is above the threshold. The search for the best thresholds does not look
    at `threshold`. It walks by rising probability, equal ones in the order of `no_answer_probabilities`.

    Args:
        answers: question id -> gold answers, in the order of the data set; none for an unanswerable question.
        predictions: question id -> answer, empty for none. Other ids are ignored.
        no_answer_probabilities: question id -> probability, or any score, of there being no answer; without it 0 of
            every question, as in the script. Other ids are ignored.
        threshold: the script's `--na-prob-thresh`.

    Raises:
        InputError: no question, or one without prediction or probability. The script fails there too, or skips it.
    """
    _check_any(answers)
    _check_complete("prediction", answers, predictions)
    if no_answer_probabilities is not None:
        _check_complete("no-answer probability", answers, no_answer_probabilities)
    exact, best_f1 = {}, {}
    for question, texts in answers.items():
        # Answers that normalise to nothing are dropped, but the question stays an answerable one.
        gold = [text for text in texts if normalize_answer(text)] or [""]
        exact[question] = exact_match(predictions[question], gold)
        best_f1[question] = f1_or_both_empty(predictions[question], gold)
    probabilities = no_answer_probabilities if no_answer_probabilities is not None else dict.fromkeys(answers, 0.0)

    def blanked(scores: Mapping[str, float]) -> dict[str, float]:
        return {
            question: float(not answers[question]) if probabilities[question] > threshold else score
            for question, score in scores.items()
        }

    report: dict[str, float] = {}
    groups: list[tuple[str, Callable[[str], bool]]] = [
        ("", lambda question: True),
        ("HasAns_", lambda question: bool(answers[question])),
        ("NoAns_", lambda question: not answers[question]),
    ]
    final_exact, final_f1 = blanked(exact), blanked(best_f1)
    for prefix, belongs in groups:
        group = [question for question in answers if belongs(question)]
        if group:
            report[f"{prefix}exact"] = 100.0 * sum(final_exact[question] for question in group) / len(group)
            report[f"{prefix}f1"] = 100.0 * sum(final_f1[question] for question in group) / len(group)
            report[f"{prefix}total"] = len(group)
    if no_answer_probabilities is not None:
        for name, scores in (("exact", exact), ("f1", best_f1)):
            best, best_threshold = best_no_answer_threshold(answers, predictions, scores, no_answer_probabilities)
            report[f"best_{name}"], report[f"best_{name}_thresh"] = best, best_threshold
    return report


def best_no_answer_threshold(
    answers: Mapping[str, Sequence[str]],
    predictions: Mapping[str, str],
    scores: Mapping[str, float],
    no_answer_probabilities: Mapping[str, float],
) -> tuple[float, float]:
    """The best score in percent that any threshold gives, and the threshold (`find_best_thresh` of the script).

    Starts with no question answered. Answering one more gains its score if it is answerable, and costs 1 if it is not
    and its prediction is not empty.

    Args:
        answers: as in `score_squad_v2`.
        predictions: as there.
        scores: question id -> score, 0 to 1, of its prediction as it is, before any threshold.
        no_answer_probabilities: as there.
    """
    score: float = sum(not texts for texts in answers.values())
    best, threshold = score, 0.0
    for question in sorted(no_answer_probabilities, key=lambda question: no_answer_probabilities[question]):
        if question in scores:
            score += scores[question] if answers[question] else -bool(predictions[question])
            if score > best:
                best, threshold = score, no_answer_probabilities[question]
    return 100.0 * best / len(scores), threshold


def _check_any(answers: Mapping[str, Sequence[str]]) -> None:
    if not answers:
        raise InputError("the data set has no question")


def _check_complete(noun: str, answers: Mapping[str, Sequence[str]], given: Mapping[str, object]) -> None:
    missing = [question for question in answers if question not in given]
    if missing:
        raise InputError(
            f"{len(missing):,} of {len(answers):,} questions have no {noun}; the first of them is {missing[0]!r}"
        )
