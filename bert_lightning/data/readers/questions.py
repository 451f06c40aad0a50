"""Questions about a context: SQuAD's JSON (Rajpurkar et al. 2016, 2018), and tables in the form of the hub."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from bert_lightning.data.examples import Answer, Question
from bert_lightning.data.lines import format_suffix
from bert_lightning.data.readers.json_fields import field, required, texts, typed
from bert_lightning.data.sources import is_hidden, read_json, read_rows
from bert_lightning.errors import InputError


class _Entry(NamedTuple):
    """A question of the source before its answers are read."""

    place: str
    values: Any
    context: str
    title: str


def read_questions(source: str, labelled: bool | None = True) -> Iterator[Question]:
    """Stream the questions of a SQuAD file (`.json`, v1.1 or v2.0), or of JSONL, Parquet or hub rows.

    A row has `id`, `question`, `context`, maybe `title`, and `answers`: lists `{text, answer_start}`, or a list of
    such pairs. A question without an answer is impossible; plausible answers are not read.

    Args:
        source: a file or hub data set.
        labelled: whether answers are read; without them no question counts as impossible. None reads answers only if
            some question has one or is marked as impossible, since test files may hide them all.

    Raises:
        InputError: a key is missing or has another type, an id occurs twice, a start lies outside the context, the
            text of an answer is blank, or `is_impossible` contradicts the answers.
    """
    places: dict[str, str] = {}
    entries = (_squad if format_suffix(source) == ".json" else _table)(source)
    if labelled is None:
        entries = list(entries)
        labelled = any(_is_labelled(entry.values) for entry in entries)
    for entry in entries:
        question = _question(entry, labelled)
        if question.id in places:
            raise InputError(f"{question.place}: the id {question.id!r} occurs twice, first in {places[question.id]}")
        places[question.id] = question.place.removeprefix(f"{source}: ")
        yield question


def _is_labelled(values: Any) -> bool:
    if not isinstance(values, dict):
        return False
    answers = values.get("answers")
    if isinstance(answers, dict):
        answers = answers.get("text")
    elif isinstance(answers, list):
        answers = [answer.get("text") if isinstance(answer, dict) else answer for answer in answers]
    return values.get("is_impossible") is True or not is_hidden(answers, minus_one=False)


def _squad(source: str) -> Iterable[_Entry]:
    for article, entry in enumerate(field(source, read_json(source), "data", list), 1):
        place = f"{source}: article {article}"
        paragraphs = field(place, entry, "paragraphs", list)
        title = _title(place, entry)
        place += f" ({title!r})" if title else ""
        for number, paragraph in enumerate(paragraphs, 1):
            inside = f"{place}, paragraph {number}"
            context = field(inside, paragraph, "context", str)
            for count, values in enumerate(field(inside, paragraph, "qas", list), 1):
                yield _Entry(f"{inside}, question {count}", values, context, title)


def _table(source: str) -> Iterable[_Entry]:
    for place, values in read_rows(source):
        yield _Entry(place, values, field(place, values, "context", str), _title(place, values))


def _question(entry: _Entry, labelled: bool) -> Question:
    place, values, context, title = entry
    identifier = required(place, values, "id")
    # Some sets number their questions; in a prediction file keys are text.
    identifier = str(identifier) if type(identifier) is int else typed(place, "the value of 'id'", identifier, str)
    place += f" (id {identifier!r})"
    question = field(place, values, "question", str)
    answers = _answers(place, required(place, values, "answers"), context) if labelled else ()
    is_impossible = labelled and not answers
    stated = values.get("is_impossible")
    if (
        labelled
        and stated is not None
        and typed(place, "the value of 'is_impossible'", stated, bool) != is_impossible
    ):
        raise InputError(f"{place}: is_impossible is {str(stated).lower()}, but there are {len(answers)} answers")
    return Question(place, identifier, question, context, answers, is_impossible, title)


def _answers(place: str, value: Any, context: str) -> tuple[Answer, ...]:
    if isinstance(value, dict):
        found = texts(place, "the answers' 'text'", required(place, value, "text"))
        starts = field(place, value, "answer_start", list)
        if len(found) != len(starts):
            raise InputError(f"{place}: {len(found)} answers, but {len(starts)} values of 'answer_start'")
        value = [{"text": text, "answer_start": start} for text, start in zip(found, starts, strict=True)]
    answers = []
    for number, answer in enumerate(typed(place, "the value of 'answers'", value, list), 1):
        inside = f"{place}, answer {number}"
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


def _title(place: str, values: dict[str, Any]) -> str:
    return "" if values.get("title") is None else field(place, values, "title", str)
