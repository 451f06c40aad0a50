"""Scores of question answering, equal to those of evaluate-v1.1.py and evaluate-v2.0.py in the last bit.

Both scripts are by Rajpurkar et al. (2016, 2018). Sums run in the order of the questions, as in the scripts.
"""

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence

from bert_lightning.errors import InputError

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalize_answer(text: str) -> str:
    """Lowercase a text, then remove ASCII punctuation, the words a, an and the, and superfluous white space.

    >>> normalize_answer("The  New-York Times!")
    'newyork times'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, answers: Sequence[str]) -> int:
    """Return 1 if the normalised prediction is one of the normalised gold answers, else 0.

    >>> exact_match("the cat.", ["dog", "Cat"])
    1
    """
    return max(int(normalize_answer(prediction) == normalize_answer(answer)) for answer in answers)


def f1(prediction: str, answers: Sequence[str]) -> float:
    """Return the F1 over the tokens of prediction and gold answer, the best over all answers, 0 to 1.

    As in v1.1, it is 0 if no token is shared, also if neither side has a token; see `f1_or_both_empty`.

    >>> f1("the black cat", ["a cat", "dog"])
    0.6666666666666666
    """
    return max(_token_f1(_tokens(prediction), _tokens(answer)) for answer in answers)


def f1_or_both_empty(prediction: str, answers: Sequence[str]) -> float:
    """Return `f1`, or 1 if neither side has a token, as in v2.0: there an empty text stands for no answer."""
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
    """Return `exact_match` and `f1` in percent, as evaluate-v1.1.py computes them.

    Args:
        answers: question id -> gold answers, in the order of the data set.
        predictions: question id -> answer. A question without one scores 0; other ids are ignored.

    Raises:
        InputError: there is no question, or a question with a prediction has no gold answer.

    >>> score_squad_v1({"q1": ["a cat"], "q2": ["Rome"]}, {"q1": "the cat", "q2": "Paris"})
    {'exact_match': 50.0, 'f1': 50.0}
    """
    _check_any(answers)
    total_exact, total_f1 = 0, 0.0
    for question, texts in answers.items():
        if question in predictions:
            if not texts:
                raise InputError(f"the question {question!r} has no answer, which v1.1 does not allow: is this v2.0?")
            total_exact += exact_match(predictions[question], texts)
            # Not sum(), which rounds differently from the script since Python 3.12.
            total_f1 += f1(predictions[question], texts)
    return {"exact_match": 100.0 * total_exact / len(answers), "f1": 100.0 * total_f1 / len(answers)}


def score_squad_v2(
    answers: Mapping[str, Sequence[str]],
    predictions: Mapping[str, str],
    no_answer_probabilities: Mapping[str, float] | None = None,
    threshold: float = 1.0,
) -> dict[str, float]:
    """Return the report of evaluate-v2.0.py, with its keys in its order; scores in percent, totals as whole numbers.

    The report has `HasAns_*` and `NoAns_*` if there are such questions, and `best_*` if there are probabilities. A
    prediction counts as empty if its no-answer probability is above the threshold. The search for the best thresholds
    ignores `threshold`. It goes through the questions by rising probability, and through equal ones in the order of
    `no_answer_probabilities`.

    Args:
        answers: question id -> gold answers, in the order of the data set; none for an unanswerable question.
        predictions: question id -> answer, empty for none. Other ids are ignored.
        no_answer_probabilities: question id -> probability, or any score, that there is no answer. None means 0 for
            every question, as in the script. Other ids are ignored.
        threshold: the script's `--na-prob-thresh`.

    Raises:
        InputError: there is no question, or a question has no prediction or probability. In these cases the script
            fails or skips the question.
    """
    _check_any(answers)
    _check_complete("prediction", answers, predictions)
    if no_answer_probabilities is not None:
        _check_complete("no-answer probability", answers, no_answer_probabilities)
    exact, best_f1 = {}, {}
    for question, texts in answers.items():
        # Answers that normalise to nothing are dropped, but the question still counts as answerable.
        gold = [text for text in texts if normalize_answer(text)] or [""]
        exact[question] = exact_match(predictions[question], gold)
        best_f1[question] = f1_or_both_empty(predictions[question], gold)
    probabilities = no_answer_probabilities if no_answer_probabilities is not None else dict.fromkeys(answers, 0.0)

    def at_threshold(scores: Mapping[str, float]) -> dict[str, float]:
        # An empty prediction scores 1 for an unanswerable question.
        return {
            question: float(not answers[question]) if probabilities[question] > threshold else score
            for question, score in scores.items()
        }

    report = _report_by_group(answers, at_threshold(exact), at_threshold(best_f1))
    if no_answer_probabilities is not None:
        for name, scores in (("exact", exact), ("f1", best_f1)):
            best, best_threshold = best_no_answer_threshold(answers, predictions, scores, no_answer_probabilities)
            report[f"best_{name}"], report[f"best_{name}_thresh"] = best, best_threshold
    return report


def _report_by_group(
    answers: Mapping[str, Sequence[str]], exact: Mapping[str, float], f1_scores: Mapping[str, float]
) -> dict[str, float]:
    """Average the scores over all questions, the answerable and the unanswerable ones."""
    groups = {
        "": list(answers),
        "HasAns_": [question for question, texts in answers.items() if texts],
        "NoAns_": [question for question, texts in answers.items() if not texts],
    }
    report: dict[str, float] = {}
    for prefix, group in groups.items():
        if group:
            report[f"{prefix}exact"] = 100.0 * sum(exact[question] for question in group) / len(group)
            report[f"{prefix}f1"] = 100.0 * sum(f1_scores[question] for question in group) / len(group)
            report[f"{prefix}total"] = len(group)
    return report


def best_no_answer_threshold(
    answers: Mapping[str, Sequence[str]],
    predictions: Mapping[str, str],
    scores: Mapping[str, float],
    no_answer_probabilities: Mapping[str, float],
) -> tuple[float, float]:
    """Return the best score in percent over all thresholds, and its threshold (`find_best_thresh` of the script).

    The search starts with no question answered. One more answer adds its score if the question is answerable. It
    costs 1 if the question is unanswerable and the prediction is not empty.

    Args:
        answers: as in `score_squad_v2`.
        predictions: as in `score_squad_v2`.
        scores: question id -> score, 0 to 1, of its prediction before any threshold.
        no_answer_probabilities: as in `score_squad_v2`.
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


def _check_complete(noun: str, answers: Mapping[str, Sequence[str]], values: Mapping[str, object]) -> None:
    missing = [question for question in answers if question not in values]
    if missing:
        raise InputError(
            f"{len(missing):,} of {len(answers):,} questions have no {noun}; the first of them is {missing[0]!r}"
        )
