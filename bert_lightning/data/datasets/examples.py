"""Examples of fine-tuning data, one type per task, as readers yield them and before they are tokenised.

The `location` of an example is its file and line, or its row, as an error message names it.
"""

from typing import Any, NamedTuple


class LabelledText(NamedTuple):
    """A text, or a pair of texts, and its label."""

    location: str
    text: str
    text_pair: str | None
    label: str | tuple[str, ...] | float | None
    """A name; all names of a multi-label text; a number in regression; None if the source gives none."""
    id: str
    """The id in the source, or the number of the row counted from 0."""


class TaggedSentence(NamedTuple):
    """Words and their tags."""

    location: str
    words: list[str]
    tags: list[str] | None
    """One per word; None if the source gives none."""
    document: int
    """The number of documents that have begun so far (`-DOCSTART-`, `# newdoc`); 0 if the format marks none."""


class Answer(NamedTuple):
    """An answer as the source gives it. The reader does not check that the context holds it at `start`."""

    text: str
    start: int
    """In characters of the context."""


class Question(NamedTuple):
    """A question about a context."""

    location: str
    id: str
    """Unique in the source."""
    question: str
    context: str
    answers: tuple[Answer, ...]
    """All gold answers; the same one may occur more than once."""
    is_impossible: bool
    """True if the context holds no answer (SQuAD v2.0)."""
    title: str
    """The title of the article; empty if the source gives none."""


class ChoiceQuestion(NamedTuple):
    """A context with several continuations or answers, of which one is right."""

    location: str
    id: str
    context: str
    question: str
    """The question, or the beginning of a sentence that each choice completes; may be empty."""
    choices: tuple[str, ...]
    label: int | None
    """The right choice, counted from 0; None if the source gives none."""


class RelationExample(NamedTuple):
    """A text with two entities, and the relation between them."""

    location: str
    id: str
    text: str
    """Without markers."""
    first: tuple[int, int]
    """Begin and end (exclusive) of e1, or of the subject, in characters of `text`."""
    second: tuple[int, int]
    """The same of e2, or of the object. It may come before `first`, and in TACRED's form may overlap it."""
    label: str | None
    """The relation with its direction, such as `Cause-Effect(e2,e1)`; None if the source gives none."""


EXAMPLE_TYPES: dict[str, tuple[Any, dict[str, object]]] = {
    "text-classification": (LabelledText, {"text_pair": None}),
    "token-classification": (TaggedSentence, {"document": 0}),
    "question-answering": (Question, {"answers": (), "is_impossible": False, "title": ""}),
    "multiple-choice": (ChoiceQuestion, {"question": ""}),
    "relation-classification": (RelationExample, {}),
}
"""Task -> the type of its examples, and the values of fields that a custom data set may leave out."""
UNLABELLED: dict[str, None] = {"label": None, "tags": None}
"""Fields that a test split may leave out."""
