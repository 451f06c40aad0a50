"""The command `score`: score prediction files of any system, exactly as the official scorers do."""

import logging
import math
import os
from collections.abc import Mapping
from typing import TypedDict, TypeVar

from bert_lightning.data.reading.json_values import read_json
from bert_lightning.data.reading.lines import STANDARD_INPUT
from bert_lightning.errors import InputError
from bert_lightning.metrics.entities import EntityScheme, EntityScores, Score, score_entities
from bert_lightning.metrics.squad import score_squad_v1, score_squad_v2
from bert_lightning.reports.aligned_tags import read_aligned
from bert_lightning.tags import OUTSIDE, has_type
from bert_lightning.wording import count

log = logging.getLogger(__name__)


# -- tags --------------------------------------------------------------------------------------------------------


class SpanPercentages(TypedDict):
    """Scores of one type, or of all types together, in percent."""

    precision: float
    recall: float
    f1: float


class EntityPercentages(SpanPercentages):
    """Scores of all spans, the accuracy of tags, and the scores of each type, in percent."""

    accuracy: float
    per_type: dict[str, SpanPercentages]


def score_conll_files(
    gold: str,
    predictions: str,
    scheme: EntityScheme = "conlleval",
    token_column: int | str | None = None,
    tag_column: int | str | None = None,
) -> EntityPercentages:
    """Score the entities of two column files, in percent with the two decimals that conlleval prints.

    Each line has one token, in columns separated by blanks or tabs. The last column is the tag. If there are several
    columns, the first one is the token. Empty lines end sentences. If the two files then do not have the same tokens,
    the gold file is read as `fit` reads it. Blanks in its words become `_`, as in the files of a run.

    If the predictions are in a run directory, the gold file is read with the settings of that run. A run writes the
    gold tags in IOB2 before the predicted tags. If the gold file marks the same spans in another scheme, the tags of
    the run replace its tags, so that the scores are those of the run.

    Args:
        gold: the gold file.
        predictions: the file of predictions.
        scheme: the scorer to follow.
        token_column: column of the words in the gold file, like `data.token_column`.
        tag_column: column of the tags in the gold file, like `data.tag_column`.

    Raises:
        InputError: a file cannot be read, a tag is not of the scheme, or the files do not have the same tokens. The
            message names file and line.
    """
    _check_exists(gold)
    _check_exists(predictions)
    aligned = read_aligned(gold, predictions, scheme, token_column, tag_column)
    gold_tags, predicted_tags = (
        [[line.tag for line in sentence] for sentence in side] for side in (aligned.gold, aligned.predicted)
    )
    if aligned.plain:
        log.warning(
            "%s: the tags, such as %r, mark no spans: there are no entities, and only the accuracy counts",
            gold,
            next(tag for tags in gold_tags for tag in tags),
        )
        return _in_percent(_plain_scores(gold_tags, predicted_tags), scheme)
    _warn_about_letters(gold_tags + predicted_tags, scheme)
    _warn_about_types(gold, gold_tags, predictions, predicted_tags)
    scores = score_entities(gold_tags, predicted_tags, scheme)
    if not scores.overall.num_gold:
        log.warning("%s: no entity in this file", gold)
    return _in_percent(scores, scheme)


def _in_percent(scores: EntityScores, scheme: EntityScheme) -> EntityPercentages:
    """Round scores as the scorer prints them.

    seqeval, the scorer of strict mode, computes fractions; conlleval computes in percent. The two may differ in the
    last decimal.
    """
    in_percent = scheme == "conlleval"

    def percentages(score: Score) -> SpanPercentages:
        values = score.percent() if in_percent else [100 * value for value in score[:3]]
        precision, recall, f1 = map(_two_decimals, values)
        return {"precision": precision, "recall": recall, "f1": f1}

    return {
        **percentages(scores.overall),
        "accuracy": _two_decimals(scores.accuracy_percent if in_percent else 100 * scores.accuracy),
        "per_type": {kind: percentages(score) for kind, score in scores.per_type.items()},
    }


def _two_decimals(value: float) -> float:
    return float(f"{value:.2f}")


def _plain_scores(gold: list[list[str]], predicted: list[list[str]]) -> EntityScores:
    """Return the scores of plain labels: the accuracy, and no entities."""
    pairs = [pair for tags in zip(gold, predicted, strict=True) for pair in zip(*tags, strict=True)]
    return EntityScores(Score.of(0, 0, 0), {}, len(pairs), sum(a == b for a, b in pairs))


def _warn_about_letters(tags: list[list[str]], scheme: EntityScheme) -> None:
    """Warn if conlleval.pl counts other spans than those that the tags mark in their scheme."""
    letters = sorted({tag[0] for each in tags for tag in each} & set("ESLU"))
    if letters and scheme == "conlleval":
        log.warning(
            "tags with %s are counted as conlleval.pl counts them: touching entities of one type are one entity. "
            "Tags in IOB2 keep them apart",
            ", ".join(letters),
        )


def _warn_about_types(
    gold: str, gold_tags: list[list[str]], predictions: str, predicted_tags: list[list[str]]
) -> None:
    """Warn if the tags of one file have types and those of the other have none."""
    gold_typed, predicted_typed = (
        {has_type(tag) for tags in side for tag in tags if tag != OUTSIDE} for side in (gold_tags, predicted_tags)
    )
    if gold_typed and predicted_typed and gold_typed.isdisjoint(predicted_typed):
        contrast = ("types", predictions, "no types") if True in gold_typed else ("no types", predictions, "types")
        log.warning("%s: the tags have %s, but those of %s have %s, so no entity can be right", gold, *contrast)


# -- question answering ------------------------------------------------------------------------------------------


def score_squad_v1_files(gold: str, predictions: str) -> dict[str, float]:
    """Score the answers to a SQuAD v1.1 data set.

    Args:
        gold: the data set.
        predictions: a JSON object of question id -> answer. Questions without a prediction score 0, and predictions
            for other ids are ignored, both with a warning.

    Raises:
        InputError: a file does not have the expected format. The message names file and line, or the id.
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
    """Score the answers to a SQuAD v2.0 data set.

    Args:
        gold: the data set.
        predictions: a JSON object of question id -> answer, empty for no answer. Answers for other ids are ignored
            with a warning.
        no_answer_probability: a JSON object of question id -> number.
        no_answer_threshold: an answer counts as empty if that number is above the threshold.

    Raises:
        InputError: a file does not have the expected format, or a question has no prediction or no probability.
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
        log.warning("--no-answer-threshold: without --no-answer-probability, the probability of every question is 0")
    return score_squad_v2(answers, texts, probabilities, no_answer_threshold)


def read_answers(source: str) -> dict[str, tuple[str, ...]]:
    """Return question id -> gold answers of a SQuAD data set, in its order. An unanswerable question has none.

    Raises:
        InputError: the file does not have SQuAD's format, has no question, or has an id twice.
    """
    answers: dict[str, tuple[str, ...]] = {}
    articles = _field(_read_json(source), "data", list, f"{source}: this is not a SQuAD data set:")
    for article_number, article in enumerate(articles):
        article_location = f"{source}: data[{article_number}]"
        for number, paragraph in enumerate(_field(article, "paragraphs", list, f"{article_location}:")):
            location = f"{article_location}.paragraphs[{number}]"
            for question_number, question in enumerate(_field(paragraph, "qas", list, f"{location}:")):
                question_id = _field(question, "id", str, f"{location}.qas[{question_number}]:")
                name = f"{source}: the question {question_id!r}:"
                if question_id in answers:
                    raise InputError(f"{name} its id occurs twice")
                texts = _field(question, "answers", list, name)
                answers[question_id] = tuple(_field(answer, "text", str, f"{name} an answer:") for answer in texts)
    if not answers:
        raise InputError(f"{source}: no question in this data set")
    return answers


_JSON_TYPES: dict[type, str] = {list: "a list", str: "text", dict: "an object"}
_Value = TypeVar("_Value")


def _field(value: object, key: str, kind: type[_Value], location: str) -> _Value:
    """Return the value of a key of a JSON object.

    Raises:
        InputError: `value` is not an object, the key is missing, or its value is not of type `kind`.
    """
    if not isinstance(value, dict):
        raise InputError(f"{location} an object with {key!r} is expected, not {_described(value)}")
    if key not in value:
        raise InputError(f"{location} it has no {key!r}")
    if not isinstance(value[key], kind):
        raise InputError(f"{location} {key!r} is {_described(value[key])}; {_JSON_TYPES[kind]} is expected")
    return value[key]


def _described(value: object) -> str:
    """Return the JSON type of a list, text or object for messages, and any other value itself."""
    return "null" if value is None else _JSON_TYPES.get(type(value), f"{value!r}")


def _read_predictions(source: str, answers: Mapping[str, object]) -> dict[str, str]:
    texts: dict[str, str] = {}
    for question, text in _read_by_id(source, answers, "prediction").items():
        if not isinstance(text, str):
            raise InputError(f"{source}: the prediction of {question!r} is {_described(text)}; text is expected")
        texts[question] = text
    return texts


def _read_probabilities(source: str, answers: Mapping[str, object]) -> dict[str, float]:
    probabilities: dict[str, float] = {}
    for question, value in _read_by_id(source, answers, "probability").items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not _is_finite(value):
            raise InputError(
                f"{source}: the no-answer probability of {question!r} is {_described(value)}; "
                "a finite number is expected"
            )
        probabilities[question] = value
    if gap := _gap(answers, probabilities, "no-answer probability"):
        raise InputError(f"{source}: {gap}")
    return probabilities


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:
        # The integer is too large for a float.
        return False


def _gap(answers: Mapping[str, object], values: Mapping[str, object], noun: str) -> str:
    """Describe the questions without a value; return an empty text if every question has one."""
    missing = [question for question in answers if question not in values]
    if not missing:
        return ""
    questions = f"{len(missing):,} of {count(len(answers), 'question')}"
    return f"a {noun} is missing for {questions}; the first of them is {missing[0]!r}"


def _read_by_id(source: str, answers: Mapping[str, object], noun: str) -> dict[str, object]:
    """Read a JSON object of question ids, in the order of the file."""
    values = _read_json(source)
    if not isinstance(values, dict):
        raise InputError(f"{source}: an object of question id and {noun} is expected, not {_described(values)}")
    unknown = [question for question in values if question not in answers]
    if unknown:
        log.warning(
            "%s: ignored %s for questions that the data set does not have; the first of them is %r",
            source,
            count(len(unknown), "value"),
            unknown[0],
        )
    return values


def _read_json(source: str) -> object:
    _check_exists(source)
    return read_json(source)


# -- both --------------------------------------------------------------------------------------------------------


def _check_exists(source: str) -> None:
    if source != STANDARD_INPUT and not os.path.exists(source):
        raise InputError(f"{source}: no such file")
