"""`score`: files of gold answers and of predictions, from whatever system, to the figures of the official scorer."""

import json
import logging
import math
import os
from collections import Counter
from collections.abc import Mapping
from typing import Any

from bert_lightning.data.reading.lines import STANDARD_INPUT, numbered_lines
from bert_lightning.errors import InputError
from bert_lightning.metrics.entities import EntityScheme, EntityScores, Score, score_entities
from bert_lightning.metrics.squad import score_squad_v1, score_squad_v2
from bert_lightning.reports.aligned_tags import read_aligned
from bert_lightning.tags import OUTSIDE, has_type
from bert_lightning.wording import count

log = logging.getLogger(__name__)


# -- columns -----------------------------------------------------------------------------------------------------


def score_conll_files(
    gold: str,
    predictions: str,
    scheme: EntityScheme = "conlleval",
    token_column: int | str | None = None,
    tag_column: int | str | None = None,
) -> dict[str, Any]:
    """Entity scores of two column files, in percent with the two decimals that conlleval prints.

    A line is a token: columns parted by blanks or tabs, the tag last, the token first if there are several. Empty
    lines end sentences. If the files then do not have the same tokens, the gold file is read as `fit` reads it.
    Blanks in its words become `_`, as in the files of a run.

    If the predictions are in a run directory, the gold file is read as that run reads it. A run writes gold tags in
    IOB2 before the predicted ones. They replace the tags of a gold file that marks the same spans by another scheme,
    so that the figures are those of the run.

    Args:
        gold: the gold file.
        predictions: the file of predictions.
        scheme: the scorer whose figures are given.
        token_column: the words of the gold file, as `data.token_column`.
        tag_column: the tags of the gold file, as `data.tag_column`.

    Returns:
        `precision`, `recall`, `f1`, `accuracy` (of tags), and `per_type`: type -> the first three.

    Raises:
        InputError: unreadable, a tag that is not of the scheme, or files that are not of the same tokens; the message
            names file and line.
    """
    _check_exists(gold)
    _check_exists(predictions)
    sentences, plain = read_aligned(gold, predictions, scheme, token_column, tag_column)
    gold_tags, predicted_tags = ([[line.tag for line in each] for each in side] for side in sentences)
    if plain:
        log.warning(
            "%s: the tags, such as %r, mark no spans: there are no entities, and only the accuracy counts",
            gold,
            next(tag for tags in gold_tags for tag in tags),
        )
        scores = _plain_scores(gold_tags, predicted_tags)
    else:
        _warn_about_letters(gold_tags + predicted_tags, scheme)
        scores = score_entities(gold_tags, predicted_tags, scheme)
        typed, predicted_typed = (
            {has_type(tag) for tags in side for tag in tags if tag != OUTSIDE} for side in (gold_tags, predicted_tags)
        )
        if typed and predicted_typed and typed.isdisjoint(predicted_typed):
            log.warning(
                "%s: the tags have %s, those of %s have %s: no entity can be right",
                gold, *(("types", predictions, "none") if True in typed else ("no types", predictions, "some")),
            )  # fmt: skip
        if not scores.overall.num_gold:
            log.warning("%s: no entity in this file", gold)

    # Strict mode is seqeval's, which gives fractions; conlleval computes in percent. The last digit may hang on it.
    official = scheme == "conlleval"

    def rounded(score: Score) -> dict[str, float]:
        values = score.percent() if official else tuple(100 * value for value in score[:3])
        return dict(zip(("precision", "recall", "f1"), map(_two_decimals, values), strict=True))

    return {
        **rounded(scores.overall),
        "accuracy": _two_decimals(scores.accuracy_percent if official else 100 * scores.accuracy),
        "per_type": {kind: rounded(score) for kind, score in scores.per_type.items()},
    }


def _two_decimals(value: float) -> float:
    return float(f"{value:.2f}")


def _plain_scores(gold: list[list[str]], predicted: list[list[str]]) -> EntityScores:
    pairs = [pair for tags in zip(gold, predicted, strict=True) for pair in zip(*tags, strict=True)]
    return EntityScores(Score.of(0, 0, 0), {}, len(pairs), sum(a == b for a, b in pairs))


def _warn_about_letters(tags: list[list[str]], scheme: EntityScheme) -> None:
    """Warn if conlleval.pl counts other spans than the scheme of the tags has."""
    letters = sorted({tag[0] for each in tags for tag in each} & set("ESLU"))
    if letters and scheme == "conlleval":
        log.warning(
            "tags with %s are counted as conlleval.pl counts them: touching entities of one type are one entity. "
            "Tags in IOB2 keep them apart",
            ", ".join(letters),
        )


# -- question answering ------------------------------------------------------------------------------------------


def score_squad_v1_files(gold: str, predictions: str) -> dict[str, float]:
    """The scores of a SQuAD v1.1 data set and a JSON object of question id -> answer.

    Questions without a prediction score 0, and predictions for other ids are ignored, both with a warning.

    Raises:
        InputError: files that are not such; the message names file and line, or the id.
    """
    answers = read_answers(gold)
    texts = _read_predictions(predictions, answers)
    if gap := _gap(answers, texts, "prediction"):
        log.warning("%s: %s; such questions score 0", predictions, gap)
    try:
        return score_squad_v1(answers, texts)
    except InputError as error:
        raise InputError(f"{gold}: {error}") from None


def score_squad_v2_files(
    gold: str, predictions: str, no_answer_probability: str | None = None, no_answer_threshold: float = 1.0
) -> dict[str, float]:
    """The scores of a SQuAD v2.0 data set and a JSON object of question id -> answer, empty for none.

    Args:
        gold: the data set.
        predictions: the answers; those for other ids are ignored with a warning.
        no_answer_probability: a JSON object of question id -> number.
        no_answer_threshold: an answer counts as empty where that number is above it.

    Raises:
        InputError: as `score_squad_v1_files`, and where a question has no prediction or no probability.
    """
    if math.isnan(no_answer_threshold):
        raise InputError("--no-answer-threshold is nan; a number is expected")
    answers = read_answers(gold)
    texts = _read_predictions(predictions, answers)
    if gap := _gap(answers, texts, "prediction"):
        raise InputError(f"{predictions}: {gap}")
    probabilities = None
    if no_answer_probability is not None:
        probabilities = _read_probabilities(no_answer_probability, answers)
    elif no_answer_threshold != 1.0:
        log.warning("--no-answer-threshold: without --no-answer-probability that of every question is 0")
    return score_squad_v2(answers, texts, probabilities, no_answer_threshold)


def read_answers(source: str) -> dict[str, tuple[str, ...]]:
    """The gold answers of a SQuAD data set by question id, in order; none for an unanswerable question.

    Raises:
        InputError: not of the form of SQuAD, no question, or an id that stands twice.
    """
    answers: dict[str, tuple[str, ...]] = {}
    data = _part(_read_json(source), "data", list, f"{source}: this is no SQuAD data set:")
    for article_number, article in enumerate(data):
        article_place = f"{source}: data[{article_number}]"
        for number, paragraph in enumerate(_part(article, "paragraphs", list, f"{article_place}:")):
            location = f"{article_place}.paragraphs[{number}]"
            for question_number, question in enumerate(_part(paragraph, "qas", list, f"{location}:")):
                question_id = _part(question, "id", str, f"{location}.qas[{question_number}]:")
                name = f"{source}: the question {question_id!r}:"
                if question_id in answers:
                    raise InputError(f"{name} its id stands twice")
                texts = _part(question, "answers", list, name)
                answers[question_id] = tuple(_part(answer, "text", str, f"{name} an answer:") for answer in texts)
    if not answers:
        raise InputError(f"{source}: no question in this data set")
    return answers


_FORMS: dict[type, str] = {list: "a list", str: "text", dict: "an object"}


def _part(holder: Any, key: str, form: type, location: str) -> Any:
    if not isinstance(holder, dict):
        raise InputError(f"{location} an object with {key!r} is expected, not {_form(holder)}")
    if key not in holder:
        raise InputError(f"{location} it has no {key!r}")
    if not isinstance(holder[key], form):
        raise InputError(f"{location} {key!r} is {_form(holder[key])}; {_FORMS[form]} is expected")
    return holder[key]


def _form(value: Any) -> str:
    return "null" if value is None else _FORMS.get(type(value), f"{value!r}")


def _read_predictions(source: str, answers: Mapping[str, object]) -> dict[str, str]:
    texts = _read_by_id(source, answers, "prediction")
    for question, text in texts.items():
        if not isinstance(text, str):
            raise InputError(f"{source}: the prediction of {question!r} is {_form(text)}; text is expected")
    return texts


def _read_probabilities(source: str, answers: Mapping[str, object]) -> dict[str, float]:
    values = _read_by_id(source, answers, "probability")
    for question, value in values.items():
        if not _is_finite(value):
            raise InputError(
                f"{source}: the no-answer probability of {question!r} is {_form(value)}; a finite number is expected"
            )
    if gap := _gap(answers, values, "no-answer probability"):
        raise InputError(f"{source}: {gap}")
    return values


def _is_finite(value: Any) -> bool:
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def _gap(answers: Mapping[str, object], given: Mapping[str, object], noun: str) -> str:
    """What is missing, in words; empty if nothing is."""
    missing = [question for question in answers if question not in given]
    if not missing:
        return ""
    return (
        f"{len(missing):,} of {count(len(answers), 'question')} without a {noun}; the first of them is {missing[0]!r}"
    )


def _read_by_id(source: str, answers: Mapping[str, object], noun: str) -> dict[str, Any]:
    """A JSON object of question ids, in the order of the file."""
    values = _read_json(source)
    if not isinstance(values, dict):
        raise InputError(f"{source}: an object of question id and {noun} is expected, not {_form(values)}")
    unknown = [question for question in values if question not in answers]
    if unknown:
        log.warning(
            "%s: ignored %s for questions that the data set does not have; the first of them is %r",
            source,
            count(len(unknown), "value"),
            unknown[0],
        )
    return values


def _read_json(source: str) -> Any:
    _check_exists(source)
    text = "".join(piece for _, piece in numbered_lines(source, cut=True, carriage_returns="allow"))
    try:
        return json.loads(text, object_pairs_hook=_without_repetition)
    except _RepeatedKeyError as error:
        raise InputError(f"{source}: the key {error.args[0]!r} stands twice in one object") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{source}: line {error.lineno}: not JSON: {error.msg}, column {error.colno}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{source}: not readable as JSON: {error}") from None


class _RepeatedKeyError(Exception):
    """The key of a JSON object that stands there twice; Python would keep the last and lose the others."""


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise _RepeatedKeyError(next(key for key, number in Counter(key for key, _ in pairs).items() if number > 1))
    return values


# -- both --------------------------------------------------------------------------------------------------------


def _check_exists(source: str) -> None:
    if source != STANDARD_INPUT and not os.path.exists(source):
        raise InputError(f"{source}: no such file")
