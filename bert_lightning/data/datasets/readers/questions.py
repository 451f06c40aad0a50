"""Questions about a context: SQuAD's JSON (Rajpurkar et al. 2016, 2018), and tables with the columns of the hub."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from bert_lightning.data.datasets.examples import Answer, Question
from bert_lightning.data.reading.json_values import field, optional_text, read_json, required, texts, typed
from bert_lightning.data.reading.lines import format_suffix
from bert_lightning.data.reading.tables import read_rows
from bert_lightning.data.reading.values import is_hidden
from bert_lightning.errors import InputError


class _Entry(NamedTuple):
    """A record of the source before its question and answers are read."""

    location: str
    values: object
    context: str
    title: str


def read_questions(source: str, labelled: bool | None = True) -> Iterator[Question]:
    """Stream the questions of a SQuAD file (`.json`, v1.1 or v2.0), or of JSONL, Parquet or hub rows.

    A row has `id`, `question`, `context`, `answers` and optionally `title`. `answers` is an object of the lists
    `text` and `answer_start`, or a list of objects with these two keys. A question without an answer is impossible.
    Plausible answers are not read.

    Args:
        source: a file or hub data set.
        labelled: whether answers are read; without them no question counts as impossible. None reads answers only if
            some question has one or is marked as impossible, since test files may hide them all.

    Raises:
        InputError: a key is missing or has another type; an id occurs twice; a start is outside the context; the text
            of an answer is blank; or `is_impossible` contradicts the answers.

    >>> import json, tempfile
    >>> answers = [{"text": "the wind", "answer_start": 0}]
    >>> row = {"id": "q1", "question": "What rose?", "context": "the wind rose", "answers": answers}
    >>> file = tempfile.NamedTemporaryFile("w", suffix=".jsonl")
    >>> _ = file.write(json.dumps(row)); file.flush()
    >>> [question.answers for question in read_questions(file.name)]
    [(Answer(text='the wind', start=0),)]
    """
    locations: dict[str, str] = {}
    entries = (_squad if format_suffix(source) == ".json" else _table)(source)
    if labelled is None:
        entries = list(entries)
        labelled = any(_is_labelled(entry.values) for entry in entries)
    for entry in entries:
        question = _question(entry, labelled)
        if question.id in locations:
            raise InputError(
                f"{question.location}: the id {question.id!r} occurs twice, first in {locations[question.id]}"
            )
        locations[question.id] = question.location.removeprefix(f"{source}: ")
        yield question


def _is_labelled(values: object) -> bool:
    if not isinstance(values, dict):
        return False
    answers = values.get("answers")
    if isinstance(answers, dict):
        answers = answers.get("text")
    elif isinstance(answers, list):
        answers = [answer.get("text") if isinstance(answer, dict) else answer for answer in answers]
    return values.get("is_impossible") is True or not is_hidden(answers, minus_one=False)


def _squad(source: str) -> Iterable[_Entry]:
    for article_number, article in enumerate(field(source, read_json(source), "data", list), 1):
        location = f"{source}: article {article_number}"
        paragraphs = field(location, article, "paragraphs", list)
        title = optional_text(location, article, "title")
        location += f" ({title!r})" if title else ""
        for number, paragraph in enumerate(paragraphs, 1):
            inside = f"{location}, paragraph {number}"
            context = field(inside, paragraph, "context", str)
            for count, values in enumerate(field(inside, paragraph, "qas", list), 1):
                yield _Entry(f"{inside}, question {count}", values, context, title)


def _table(source: str) -> Iterable[_Entry]:
    for location, values in read_rows(source):
        yield _Entry(
            location, values, field(location, values, "context", str), optional_text(location, values, "title")
        )


def _question(entry: _Entry, labelled: bool) -> Question:
    location, record, context, title = entry
    values = typed(location, "the record", record, dict)
    identifier = required(location, values, "id")
    # Some data sets number their questions, but the keys of a prediction file are text.
    identifier = str(identifier) if type(identifier) is int else typed(location, "the value of 'id'", identifier, str)
    location += f" (id {identifier!r})"
    question = field(location, values, "question", str)
    answers = _answers(location, required(location, values, "answers"), context) if labelled else ()
    is_impossible = labelled and not answers
    if labelled and values.get("is_impossible") is not None:
        stated = field(location, values, "is_impossible", bool)
        if stated != is_impossible:
            raise InputError(
                f"{location}: is_impossible is {str(stated).lower()}, but there are {len(answers)} answers"
            )
    return Question(location, identifier, question, context, answers, is_impossible, title)


def _answers(location: str, value: object, context: str) -> tuple[Answer, ...]:
    if isinstance(value, dict):
        answer_texts = texts(location, "the answers' 'text'", required(location, value, "text"))
        starts = field(location, value, "answer_start", list)
        if len(answer_texts) != len(starts):
            raise InputError(
                f"{location}: this question has {len(answer_texts)} answers, but {len(starts)} values of "
                "'answer_start'"
            )
        value = [{"text": text, "answer_start": start} for text, start in zip(answer_texts, starts, strict=True)]
    answers = []
    for number, answer in enumerate(typed(location, "the value of 'answers'", value, list), 1):
        inside = f"{location}, answer {number}"
        start = field(inside, answer, "answer_start", int)
        if not 0 <= start <= len(context):
            raise InputError(f"{inside}: answer_start is {start}, but the context has {len(context)} characters")
        text = field(inside, answer, "text", str)
        if not text.strip():
            raise InputError(
                f"{inside}: the text is blank; a question without an answer has an empty list of answers"
            )
        answers.append(Answer(text, start))
    return tuple(answers)
