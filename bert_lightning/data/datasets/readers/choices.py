"""Questions with choices: SWAG, DREAM, RACE, and your own tables."""

from collections.abc import Callable, Iterator, Sequence
from itertools import count, takewhile
from pathlib import Path

from bert_lightning.checkpoints.listing import files_below
from bert_lightning.data.datasets.examples import ChoiceQuestion
from bert_lightning.data.reading.hub import HUB
from bert_lightning.data.reading.json_values import field, optional_text, read_json, required, texts, typed
from bert_lightning.data.reading.lines import format_suffix
from bert_lightning.data.reading.tables import Row, column, read_rows
from bert_lightning.data.reading.values import as_text, is_hidden
from bert_lightning.errors import InputError


def read_choices(source: str) -> Iterator[ChoiceQuestion]:
    """Stream a source of one of four forms. Its suffix and columns decide which one.

    - **SWAG** (Zellers et al. 2018), CSV or hub rows: context `sent1`, question `sent2`, choices `ending0`,
      `ending1`, ...; `label` counts from 0, or is missing.
    - **DREAM** (Sun et al. 2019), `.json` or hub rows: the turns of a dialogue, one per line, are the context; the
      answer is the text of a choice.
    - **RACE** (Lai et al. 2017), a folder of `.txt` files searched recursively, or hub rows: `article`,
      `question(s)`, `options`, and a letter from A for the answer.
    - **Your own** JSONL or Parquet: `context`, `choices` (a list), optionally `question` and `label`. The label is
      the number of the right choice, counted from 0, or its text.

    In each form the answer may be missing, null, blank or -1, as in test files that hide their answers.

    The id is that of the row or dialogue. If it has none, the id is the number of the row, counted from 0. Questions
    about one dialogue or article get a number after its id, such as `-0`.

    Raises:
        InputError: a key is missing or has another type, there are fewer than two choices, or the label is not one
            of them.

    >>> import tempfile
    >>> file = tempfile.NamedTemporaryFile("w", suffix=".jsonl")
    >>> _ = file.write('{"context": "The wind rose.", "choices": ["We set sail.", "We ate."], "label": 0}')
    >>> file.flush()
    >>> [(example.choices, example.label) for example in read_choices(file.name)]
    [(('We set sail.', 'We ate.'), 0)]
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
    return _custom_row


def _swag_row(row: Row, number: str) -> ChoiceQuestion:
    endings = takewhile(row.values.__contains__, (f"ending{n}" for n in count()))
    choices = [column(row, ending) for ending in endings]
    label = row.values.get("label")
    answer = None if is_hidden(label) else _number_of_choice(row.location, label, choices)
    return _checked(row.location, number, column(row, "sent1"), column(row, "sent2"), choices, answer)


def _custom_row(row: Row, number: str) -> ChoiceQuestion:
    location, values = row
    choices = texts(location, "the value of 'choices'", required(location, values, "choices"))
    label = values.get("label")
    answer = _index_of(label, choices)
    if answer is None and not is_hidden(label):
        answer = _number_of_choice(location, label, choices)
    question = optional_text(location, values, "question")
    identifier = number if values.get("id") is None else as_text(location, "the value of 'id'", values["id"])
    return _checked(location, identifier, field(location, values, "context", str), question, choices, answer)


def _dream(source: str) -> Iterator[ChoiceQuestion]:
    for number, entry in enumerate(typed(source, "the file", read_json(source), list), 1):
        location = f"{source}: dialogue {number}"
        record = typed(location, "the record", entry, list)
        if len(record) != 3:
            raise InputError(
                f"{location}: turns, questions and an id are expected, but the list has {len(record)} items"
            )
        turns, questions, identifier = record
        identifier = typed(location, "the id", identifier, str)
        location += f" (id {identifier!r})"
        for index, values in enumerate(typed(location, "the second item, the questions,", questions, list)):
            yield _dream_question(f"{location}, question {index + 1}", f"{identifier}-{index}", turns, values)


def _dream_row(row: Row, number: str) -> ChoiceQuestion:
    return _dream_question(row.location, number, row.values["dialogue"], row.values)


def _dream_question(location: str, identifier: str, turns: object, values: object) -> ChoiceQuestion:
    context = "\n".join(texts(location, "the dialogue", turns))
    choices = texts(location, "the value of 'choice'", required(location, values, "choice"))
    question = field(location, values, "question", str)
    answer = typed(location, "the record", values, dict).get("answer")
    label = _index_of(answer, choices)
    if label is None and not is_hidden(answer):
        raise InputError(f"{location}: the answer {answer!r} is none of the choices")
    return _checked(location, identifier, context, question, choices, label)


def _race_folder(source: str) -> Iterator[ChoiceQuestion]:
    folder = Path(source)
    files = [path for path in files_below(folder) if format_suffix(path) == ".txt"]
    if not files:
        raise InputError(f"{source}: this folder holds no .txt file")
    for path in files:
        location = str(path)
        values = typed(location, "the record", read_json(location), dict)
        questions, options = (field(location, values, key, list) for key in ("questions", "options"))
        answers = _race_answers(location, values, len(questions))
        if not len(questions) == len(options) == len(answers):
            raise InputError(
                f"{location}: this file has {len(questions)} questions, {len(options)} lists of options and "
                f"{len(answers)} answers; the numbers must be equal"
            )
        article = field(location, values, "article", str)
        # The folders for high and middle school use the same numbers for their files.
        name = path.relative_to(folder).as_posix().split(".txt")[0]
        for number, (question, choices, answer) in enumerate(zip(questions, options, answers, strict=True)):
            inside = f"{location}, question {number + 1}"
            yield _race_question(inside, f"{name}-{number}", article, question, choices, answer)


def _race_answers(location: str, values: dict[str, object], num_questions: int) -> list[object]:
    answers = values.get("answers")
    if is_hidden(answers) and (not isinstance(answers, list) or len(answers) in (0, num_questions)):
        return [None] * num_questions
    return field(location, values, "answers", list)


def _race_row(row: Row, number: str) -> ChoiceQuestion:
    article, question, options = (
        required(row.location, row.values, key) for key in ("article", "question", "options")
    )
    return _race_question(row.location, number, article, question, options, row.values.get("answer"))


def _race_question(
    location: str, identifier: str, article: object, question: object, options: object, answer: object
) -> ChoiceQuestion:
    choices = texts(location, "the options", options)
    letters = [chr(ord("A") + number) for number in range(len(choices))]
    label = _index_of(answer, letters)
    if label is None and not is_hidden(answer):
        raise InputError(f"{location}: the answer is {answer!r}, but one of {', '.join(letters)} is expected")
    context = typed(location, "the article", article, str)
    return _checked(location, identifier, context, typed(location, "the question", question, str), choices, label)


def _index_of(answer: object, choices: Sequence[str]) -> int | None:
    """Return the index of an answer among the choices; None if it is not one of them."""
    return next((number for number, choice in enumerate(choices) if choice == answer), None)


def _number_of_choice(location: str, label: object, choices: Sequence[str]) -> int:
    text = as_text(location, "the label", label)
    if not (text.isdecimal() and text.isascii() and int(text) < len(choices)):
        raise InputError(f"{location}: the label {text!r} is not a choice; there are {len(choices)}, counted from 0")
    return int(text)


def _checked(
    location: str, identifier: str, context: str, question: str, choices: Sequence[str], label: int | None
) -> ChoiceQuestion:
    if len(choices) < 2:
        raise InputError(f"{location}: this question has {len(choices)} choices; at least two are needed")
    return ChoiceQuestion(location, identifier, context, question, tuple(choices), label)
