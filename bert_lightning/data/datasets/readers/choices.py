"""Questions with choices: SWAG, DREAM, RACE, and tables of one's own."""

from collections.abc import Callable, Iterator, Sequence
from itertools import count, takewhile
from pathlib import Path
from typing import Any

from bert_lightning.checkpoints.listing import files_below
from bert_lightning.data.datasets.examples import ChoiceQuestion
from bert_lightning.data.reading.json_fields import field, required, texts, typed
from bert_lightning.data.reading.lines import format_suffix
from bert_lightning.data.reading.tables import HUB, Row, as_text, column, is_hidden, read_json, read_rows
from bert_lightning.errors import InputError


def read_choices(source: str) -> Iterator[ChoiceQuestion]:
    """Stream a source; what it holds says which of four forms it has.

    - **SWAG** (Zellers et al. 2018), CSV or hub rows: context `sent1`, question `sent2`, choices `ending0`,
      `ending1`, ...; `label` counts from 0, or is missing.
    - **DREAM** (Sun et al. 2019), `.json` or hub rows: the turns of a dialogue, one a line, are the context; the
      answer is the text of a choice.
    - **RACE** (Lai et al. 2017), a folder of `.txt` files searched recursively, or hub rows: `article`,
      `question(s)`, `options`, and a letter from A for the answer.
    - **One's own** JSONL or Parquet: `context`, `choices` (a list), maybe `question`, maybe `label`: the number of
      the right choice counted from 0, or its text.

    In each form the answer may be missing, null, blank or -1, as in test files that hide their answers.

    The id is that of the row or dialogue where there is one (questions of one text are counted from 0 behind it),
    otherwise the number of the row counted from 0.

    Raises:
        InputError: a key is missing or has another type, there are fewer than two choices, or the label is none.
    """
    if not source.startswith(HUB) and Path(source).is_dir():
        yield from _race_folder(source)
    elif format_suffix(source) == ".json":
        yield from _dream(source)
    else:
        for number, row in enumerate(read_rows(source)):
            yield _row_form(row)(row, str(number))


def _row_form(row: Row) -> Callable[[Row, str], ChoiceQuestion]:
    for key, form in (("ending0", _swag_row), ("dialogue", _dream_row), ("article", _race_row)):
        if key in row.values:
            return form
    return _own_row


def _swag_row(row: Row, number: str) -> ChoiceQuestion:
    endings = takewhile(row.values.__contains__, (f"ending{n}" for n in count()))
    choices = [column(row, ending) for ending in endings]
    label = row.values.get("label")
    answer = None if is_hidden(label) else _index(row.location, label, choices)
    return _checked(row.location, number, column(row, "sent1"), column(row, "sent2"), choices, answer)


def _own_row(row: Row, number: str) -> ChoiceQuestion:
    location, values = row
    choices = texts(location, "the value of 'choices'", required(location, values, "choices"))
    label = values.get("label")
    answer = (
        choices.index(label) if label in choices else None if is_hidden(label) else _index(location, label, choices)
    )
    question = "" if values.get("question") is None else field(location, values, "question", str)
    identifier = number if values.get("id") is None else as_text(location, "the value of 'id'", values["id"])
    return _checked(location, identifier, field(location, values, "context", str), question, choices, answer)


def _dream(source: str) -> Iterator[ChoiceQuestion]:
    for number, entry in enumerate(typed(source, "the file", read_json(source), list), 1):
        location = f"{source}: dialogue {number}"
        parts = typed(location, "what stands here", entry, list)
        if len(parts) != 3:
            raise InputError(f"{location}: turns, questions and an id are expected, not {len(parts)} parts")
        identifier = typed(location, "the id", parts[2], str)
        location += f" (id {identifier!r})"
        for index, values in enumerate(typed(location, "the second part, the questions,", parts[1], list)):
            yield _dream_question(f"{location}, question {index + 1}", f"{identifier}-{index}", parts[0], values)


def _dream_row(row: Row, number: str) -> ChoiceQuestion:
    return _dream_question(row.location, number, row.values["dialogue"], row.values)


def _dream_question(location: str, identifier: str, turns: Any, values: Any) -> ChoiceQuestion:
    context = "\n".join(texts(location, "the dialogue", turns))
    choices = texts(location, "the value of 'choice'", required(location, values, "choice"))
    question, answer = field(location, values, "question", str), values.get("answer")
    if answer not in choices and not is_hidden(answer):
        raise InputError(f"{location}: the answer {answer!r} is none of the choices")
    label = choices.index(answer) if answer in choices else None
    return _checked(location, identifier, context, question, choices, label)


def _race_folder(source: str) -> Iterator[ChoiceQuestion]:
    folder = Path(source)
    files = [path for path in files_below(folder) if format_suffix(path) == ".txt"]
    if not files:
        raise InputError(f"{source}: no .txt file in this folder")
    for path in files:
        location, values = str(path), read_json(str(path))
        questions, options = (field(location, values, key, list) for key in ("questions", "options"))
        hidden = is_hidden(values.get("answers")) and len(values.get("answers") or ()) in (0, len(questions))
        answers = [None] * len(questions) if hidden else field(location, values, "answers", list)
        if not len(questions) == len(options) == len(answers):
            raise InputError(
                f"{location}: {len(questions)} questions, {len(options)} lists of options and {len(answers)} answers"
            )
        article = field(location, values, "article", str)
        # High and middle school number their files alike.
        name = path.relative_to(folder).as_posix().split(".txt")[0]
        for number, (question, choices, answer) in enumerate(zip(questions, options, answers, strict=True)):
            inside = f"{location}, question {number + 1}"
            yield _race_question(inside, f"{name}-{number}", article, question, choices, answer)


def _race_row(row: Row, number: str) -> ChoiceQuestion:
    article, question, options = (
        required(row.location, row.values, key) for key in ("article", "question", "options")
    )
    return _race_question(row.location, number, article, question, options, row.values.get("answer"))


def _race_question(
    location: str, identifier: str, article: str, question: Any, options: Any, answer: Any
) -> ChoiceQuestion:
    choices = texts(location, "the options", options)
    letters = [chr(ord("A") + number) for number in range(len(choices))]
    if answer not in letters and not is_hidden(answer):
        raise InputError(f"{location}: the answer is {answer!r}, but one of {', '.join(letters)} is expected")
    article = typed(location, "the article", article, str)
    question = typed(location, "the question", question, str)
    label = letters.index(answer) if answer in letters else None
    return _checked(location, identifier, article, question, choices, label)


def _index(location: str, label: Any, choices: Sequence[str]) -> int:
    text = as_text(location, "the label", label)
    if not (text.isdecimal() and text.isascii() and int(text) < len(choices)):
        raise InputError(f"{location}: the label {text!r} is no choice; there are {len(choices)}, counted from 0")
    return int(text)


def _checked(
    location: str, identifier: str, context: str, question: str, choices: Sequence[str], label: int | None
) -> ChoiceQuestion:
    if len(choices) < 2:
        raise InputError(f"{location}: {len(choices)} choices; at least two are needed")
    return ChoiceQuestion(location, identifier, context, question, tuple(choices), label)
