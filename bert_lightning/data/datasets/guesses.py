"""Guesses about a user's table, from its first rows: which columns hold texts and labels, and what the labels are."""

import math
import re
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

from bert_lightning.data.datasets.readers.tagged import holds_lists
from bert_lightning.data.reading.hub import HUB
from bert_lightning.data.reading.lines import format_suffix
from bert_lightning.data.reading.tables import is_table, read_rows
from bert_lightning.errors import InputError

Settings = dict[str, object]

_NUM_ROWS = 1000
_LABELS = (
    *("label", "labels", "gold_label", "class", "category", "target", "topic", "topics", "sentiment", "intent"),
    *("relation", "score", "rating", "stars", "similarity"),
)
_TEXTS = ("text", "sentence", "review", "content", "body", "comment", "message", "document", "tweet", "question")
_PAIRS = (
    *(("sentence1", "sentence2"), ("premise", "hypothesis"), ("question1", "question2"), ("text_a", "text_b")),
    *(("text1", "text2"), ("question", "sentence"), ("query", "passage"), ("text", "text_pair")),
)
_WORDS = ("tokens", "words", "token", "form")
_TAGS = ("ner_tags", "tags", "pos_tags", "labels", "ner", "pos")
# Possible separators between the labels of a text, the likeliest first.
_SEPARATORS = ("|", ";", ",")
_MARKER = re.compile(r"<e1>.*</e1>", re.DOTALL)


class _Columns:
    """The first rows of a table by column.

    Attributes:
        by_name: name of a column -> its values.
        settings: the settings that name the columns, if the file does not.
    """

    def __init__(self, source: str) -> None:
        rows = [row.values for row in islice(read_rows(source), _NUM_ROWS)]
        if not rows:
            raise InputError(f"{source}: there are no examples in this source")
        self.by_name: dict[str, list[object]] = {name: [row.get(name) for row in rows] for name in rows[0]}
        self.settings: Settings = {}
        if format_suffix(source) in (".tsv", ".csv") and self._header_is_a_row():
            names = [f"column{number + 1}" for number in range(len(self.by_name))]
            self.settings["column_names"] = names
            self.by_name = dict(zip(names, ([key, *values] for key, values in self.by_name.items()), strict=True))

    def _header_is_a_row(self) -> bool:
        """Return whether the first line holds a label of later rows instead of names."""
        known = {*_LABELS, *_TEXTS, *(name for pair in _PAIRS for name in pair)}
        return not known & {name.lower() for name in self.by_name} and any(
            name in values for name, values in self.by_name.items()
        )

    def named(self, names: Iterable[str]) -> str | None:
        """Return the first column that has one of the names, in any case."""
        own = {name.lower(): name for name in reversed(self.by_name)}
        return next((own[name] for name in names if name in own), None)

    def pair(self) -> tuple[str, str] | None:
        """Return the two columns of a pair of texts."""
        found = ((self.named([first]), self.named([second])) for first, second in _PAIRS)
        return next(((first, second) for first, second in found if first and second), None)

    def label(self, others: Sequence[str] = ()) -> str | None:
        """Return the column of the labels: by its name, else the one with the fewest different values."""
        if (named := self.named(_LABELS)) is not None:
            return named
        distinct = {name: len(set(map(str, values))) for name, values in self.by_name.items() if name not in others}
        candidates = [name for name, number in distinct.items() if 1 < number < len(self.by_name[name])]
        return min(candidates, key=distinct.__getitem__, default=None)

    def text(self, others: Sequence[str | None]) -> str | None:
        """Return the column of the text: by its name, else the one with the longest texts."""
        named = self.named(_TEXTS)
        if named is not None and named not in others:
            return named
        length = {
            name: sum(len(value) for value in values if isinstance(value, str))
            for name, values in self.by_name.items()
            if name not in others
        }
        return max((name for name in length if length[name]), key=length.__getitem__, default=None)


def guess_texts(source: str) -> Settings:
    """Guess the settings of text classification: columns, their names, the problem, the separator of labels.

    A folder needs none.

    Raises:
        InputError: the source cannot be read, or no column looks like a text or a label.

    >>> import tempfile
    >>> file = tempfile.NamedTemporaryFile("w", suffix=".csv")
    >>> _ = file.write("id,review,stars\\n1,a fine boat,4.5\\n2,it leaks,1\\n"); file.flush()
    >>> guess_texts(file.name)
    {'text_column': 'review', 'label_column': 'stars', 'problem': 'regression'}
    """
    if not source.startswith(HUB) and Path(source).is_dir():
        return {}
    columns = _Columns(source)
    pair = columns.pair()
    label = columns.label(pair or ())
    text = pair[0] if pair is not None else columns.text([label])
    if label is None or text is None:
        missing = "label" if label is None else "text"
        raise InputError(
            f"{source}: no column looks like the {missing}; the columns are: {', '.join(columns.by_name)}. "
            f"Call one {missing!r}, or leave out --data and set data.text_column and data.label_column"
        )
    settings = {**columns.settings, "text_column": text}
    if pair is not None:
        settings["text_pair_column"] = pair[1]
    return {**settings, "label_column": label, **_problem(columns.by_name[label])}


def guess_tags(source: str) -> Settings:
    """Guess the settings of token classification: the columns of a table whose names are not the default ones."""
    if not holds_lists(source):
        return {}
    columns = _Columns(source)
    tokens, tags = columns.named(_WORDS), columns.named(_TAGS)
    settings: Settings = {"token_column": tokens} if tokens not in (None, _WORDS[0]) else {}
    return {**settings, **({"tag_column": tags} if tags not in (None, *_TAGS[:3]) else {})}


def guess_relations(source: str) -> Settings:
    """Guess the settings of relation classification: the columns of a table whose names are not the default ones."""
    if not is_table(source):
        return {}
    columns = _Columns(source)
    settings: Settings = {}
    marked = [name for name, values in columns.by_name.items() if _MARKER.search(str(values[0]))]
    if marked and marked[0] not in ("text", "sentence"):
        settings["text_column"] = marked[0]
    if (label := columns.label(marked)) not in (None, "label", "relation"):
        settings["label_column"] = label
    return settings


def _problem(labels: Sequence[object]) -> Settings:
    """Guess the problem from the labels; {} for single labels, the default.

    >>> _problem(["a|b", "a", "b", "b|c"]), _problem(["0.5", "1"]), _problem(["1", "0"])
    ({'problem': 'multi-label', 'label_separator': '|'}, {'problem': 'regression'}, {})
    """
    if any(isinstance(label, list) for label in labels):
        return {"problem": "multi-label"}
    texts = [str(label) for label in labels if label is not None]
    numbers = [_number(text) for text in texts]
    if not any(map(math.isnan, numbers)):
        # Whole numbers are mostly classes, such as stars.
        return {"problem": "regression"} if any(number % 1 for number in numbers) else {}
    for separator in _SEPARATORS:
        names = {name.strip() for text in texts for name in text.split(separator)}
        # Lists share names, so there are fewer names than texts. The halves of a name that happens to contain the
        # separator are no names of other rows.
        if any(separator in text for text in texts) and len(names) < len(set(texts)):
            return {"problem": "multi-label", "label_separator": separator}
    return {}


def _number(text: str) -> float:
    try:
        return math.nan if "_" in text else float(text)
    except ValueError:
        return math.nan
