"""What the readers of fine-tuning data hand on: one typed example at a time, before any tokenizer.

`location` is where an example stands in its source, as an error message names it.
"""

from typing import NamedTuple


class LabelledText(NamedTuple):
    """A text, or a pair of texts, and its label."""

    location: str
    text: str
    text_pair: str | None
    label: str | tuple[str, ...] | float | None
    """A name; all names of a multi-label text; a number in regression; None where the source gives none."""
    id: str
    """The source's own, or the number of the row counted from 0."""


class TaggedSentence(NamedTuple):
    """Words and their tags."""

    location: str
    words: list[str]
    tags: list[str] | None
    """One a word; None where the source gives none."""
    document: int
    """Documents begun up to here in the source (`-DOCSTART-`, `# newdoc`); 0 where the format marks none."""


class Answer(NamedTuple):
    """An answer as the source gives it; whether it stands at `start` is not checked by the reader."""

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
    """No answer is in the context (SQuAD v2.0)."""
    title: str
    """Of the article; empty where the source gives none."""


class ChoiceQuestion(NamedTuple):
    """A context with several continuations or answers, of which one is right."""

    location: str
    id: str
    context: str
    question: str
    """What precedes every choice; may be empty."""
    choices: tuple[str, ...]
    label: int | None
    """The right choice, counted from 0; None where the source gives none."""


class RelationExample(NamedTuple):
    """A text with two entities, and how they are related."""

    location: str
    id: str
    text: str
    """Without markers."""
    first: tuple[int, int]
    """Begin and end of e1, or of the subject, in characters of `text`; the end is the first behind it."""
    second: tuple[int, int]
    """The same of e2, or of the object; may stand before `first`, and in TACRED style may overlap it."""
    label: str | None
    """The relation with its direction, such as `Cause-Effect(e2,e1)`; None where the source gives none."""
