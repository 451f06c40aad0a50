"""Tagged sentences: column files such as CoNLL's, CoNLL-U, and tables whose columns are lists."""

import logging
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from bert_lightning.data.datasets.examples import TaggedSentence
from bert_lightning.data.reading.json_values import texts
from bert_lightning.data.reading.lines import format_suffix, numbered_lines
from bert_lightning.data.reading.tables import Row, is_table, no_column, read_rows, wrong_columns
from bert_lightning.data.reading.values import is_hidden
from bert_lightning.errors import InputError

log = logging.getLogger(__name__)
_DOCUMENT = "-DOCSTART-"
# A line with this first column ends a sentence in conlleval, where `-DOCSTART-` is a token like any other.
SENTENCE_END = "-X-"
_BLANKS = " \t"
# Names of the word and the tag column, which some programs write as the first line. No published set has such tags.
_COLUMN_NAMES = frozenset(
    (word, tag)
    for word in ("word", "words", "token", "tokens", "form")
    for tag in ("tag", "tags", "label", "labels", "ner", "ner_tag", "ner_tags", "pos", "pos_tag", "pos_tags", "upos")
)
_TOKEN_NAME = "tokens"
_TAG_NAMES = ("ner_tags", "tags", "pos_tags")
# https://universaldependencies.org/format.html
_CONLLU_COLUMNS = ("ID", "FORM", "LEMMA", "UPOS", "XPOS", "FEATS", "HEAD", "DEPREL", "DEPS", "MISC")
CONLLU_SUFFIXES = (".conllu", ".conllup")
_UNKNOWN = "_"
# Torch's loss ignores this tag, so data prepared for another library may hold it.
_IGNORED = "-100"
_SPAN_TAG = re.compile(r"O|[A-Z]-\S+")


class SentenceLocation(str):
    """The location of a sentence in a column file, which is that of its first word, with the line of each word.

    It is a text, because the location of every example is one. The lines are not a field of `TaggedSentence`, because
    the fingerprint of a data set covers all fields except the location.
    """

    __slots__ = ("lines", "source")
    lines: Sequence[int]
    source: str

    def __new__(cls, source: str, lines: Sequence[int]) -> "SentenceLocation":
        """Build the text from the first line and keep the other lines."""
        location = super().__new__(cls, f"{source}: line {lines[0]}")
        # The lines are nearly always consecutive, and a range takes less memory.
        consecutive = range(lines[0], lines[0] + len(lines))
        location.source, location.lines = source, consecutive if list(consecutive) == list(lines) else lines
        return location

    def __getnewargs__(self) -> tuple[str, Sequence[int]]:  # type: ignore[override]
        """Support copying and pickling."""
        return self.source, self.lines


def word_location(sentence: TaggedSentence, word: int) -> str:
    """Return the location of a word: its line in a column file, else its row and the word's number.

    >>> sentence = TaggedSentence(SentenceLocation("a.conll", [7, 8]), ["The", "boat"], ["O", "O"], 0)
    >>> word_location(sentence, 1)
    'a.conll: line 8'
    >>> word_location(sentence._replace(location="a.jsonl: line 2"), 1)
    'a.jsonl: line 2: word 2'
    """
    location = sentence.location
    if isinstance(location, SentenceLocation):
        return f"{location.source}: line {location.lines[word]}"
    return f"{location}: word {word + 1}"


def read_tagged(
    source: str, token_column: int | str | None = None, tag_column: int | str | None = None
) -> Iterator[TaggedSentence]:
    r"""Stream the sentences of a source of one of three forms. Its suffix decides which one.

    **JSONL, Parquet, hub**: a row is a sentence. Columns are given by name: `tokens`, and the first of `ner_tags`,
    `tags` and `pos_tags` that exists. Each holds a list; CSV has none, so it is refused. A sentence is unlabelled
    without a tag column, with null or an empty list for tags, or with -1 for every word. Numbers in a column
    `ner_tags` are warned about, because they are read as plain labels.

    **`.conllu`**: columns are given by number or by name (`FORM`, `UPOS`). Comments, multiword ranges (`1-2`) and
    empty nodes (`1.1`) are skipped. `# newdoc` begins a document. A sentence whose tags are all `_` is unlabelled.

    **All other suffixes** (`.conll`, `.txt`, `.bio`, `.iob2`, `.tsv`): a line holds one word. Columns are given by
    number, counted from 0, negative from the end; the default is the first and the last. A line with a tab is split
    at tabs, so that a word may hold spaces; any other line is split at spaces. Blanks at the end of a line do not
    count. A blank line ends a sentence. `-DOCSTART-` begins a document and is not a sentence. A file of one column is
    unlabelled. Lines that begin with the field `#` and stand right before a sentence are comments. But such a line is
    a word if it has as many columns as the sentence and no field `=`.

    Args:
        source: a file or hub data set.
        token_column: the column of the words; None for the default.
        tag_column: the column of the tags; None for the default.

    Raises:
        InputError: no such column, an empty word or tag, a line with another number of columns than the first, or
            lists of different length.

    >>> import tempfile
    >>> file = tempfile.NamedTemporaryFile("w", suffix=".conll")
    >>> _ = file.write("Ann B-PER\nsails O\n"); file.flush()
    >>> [(sentence.words, sentence.tags) for sentence in read_tagged(file.name)]
    [(['Ann', 'sails'], ['B-PER', 'O'])]
    """
    suffix = format_suffix(source)
    if holds_lists(source):
        yield from _table_sentences(source, token_column, tag_column)
    elif suffix in CONLLU_SUFFIXES:
        token = _number(source, "FORM" if token_column is None else token_column, _CONLLU_COLUMNS)
        tag = _number(source, "UPOS" if tag_column is None else tag_column, _CONLLU_COLUMNS)
        yield from _conllu_sentences(source, token, tag)
    else:
        token = _number(source, 0 if token_column is None else token_column)
        tag = _number(source, -1 if tag_column is None else tag_column)
        yield from _column_sentences(source, token, tag)


def has_columns(source: str) -> bool:
    """Return whether a source is a column file whose last column holds the tags: not a table, and not CoNLL-U."""
    return not holds_lists(source) and format_suffix(source) not in CONLLU_SUFFIXES


def holds_lists(source: str) -> bool:
    """Return whether a row of a source is a sentence, with lists of words and tags. A TSV file has a word per row."""
    return is_table(source) and format_suffix(source) != ".tsv"


def as_column(text: str) -> str:
    """Return a word or a tag as one column of a file whose columns are separated by blanks.

    Blanks of every kind become `_`. So does a byte-order mark, which a reader drops at the beginning of a file. The
    word `-X-` becomes `_X_`, because it ends a sentence for conlleval.

    >>> [as_column(text) for text in ("New York", "", "-X-")]
    ['New_York', '_', '_X_']
    """
    column = "_".join(text.replace("\ufeff", " ").split()) or "_"
    return "_X_" if column == SENTENCE_END else column


def _refuse_names(sentence: TaggedSentence) -> None:
    """Refuse a first line that names the columns. It would be read as a word, and its tag as one more label."""
    if sentence.tags and (sentence.words[0].lower(), sentence.tags[0].lower()) in _COLUMN_NAMES:
        raise InputError(
            f"{word_location(sentence, 0)}: {sentence.words[0]!r} and {sentence.tags[0]!r} are names of columns: "
            "delete the line"
        )


class _Line(NamedTuple):
    number: int
    fields: list[str]


class _Columns:
    """The columns of a file that are read. The line of its first word decides how many columns there are."""

    def __init__(self, source: str, token: int, tag: int) -> None:
        self.source = source
        self._token, self._tag = token, tag
        self._first: _Line | None = None

    def sentence(self, lines: list[_Line], document: int) -> TaggedSentence:
        """Build a sentence from its lines. Each must have as many columns as the first line of the file."""
        is_first = self._first is None
        first = self._first = self._first or self._begin(lines[0])
        for line in lines:
            count, expected = len(line.fields), len(first.fields)
            if count != expected:
                raise wrong_columns(self._location(line), count, expected, f"line {first.number}")
            for column, name in ((self._token, "word"), (self._tag, "tag")):
                if not line.fields[column]:
                    raise InputError(f"{self._location(line)}: the {name} is empty")
        words = [line.fields[self._token] for line in lines]
        tags = [line.fields[self._tag] for line in lines] if self._tag != self._token else None
        location = SentenceLocation(self.source, [line.number for line in lines])
        sentence = TaggedSentence(location, words, tags, document)
        if is_first:
            _refuse_names(sentence)
        return sentence

    def _begin(self, line: _Line) -> _Line:
        """Check the columns against the first line, and replace negative numbers by those counted from the front.

        A file of one column has no tags, whatever the tag column is.
        """
        count = len(line.fields)
        for column in (self._token,) if count == 1 else (self._token, self._tag):
            if not -count <= column < count:
                raise InputError(
                    f"{self._location(line)}: there is no column {column}; there are {count}, counted from 0"
                )
        self._token, self._tag = self._token % count, self._tag % count
        if self._token == self._tag and count > 1:
            raise InputError(f"{self._location(line)}: column {self._token} would be both word and tag")
        return line

    def _location(self, line: _Line) -> str:
        return f"{self.source}: line {line.number}"


def _column_sentences(source: str, token: int, tag: int) -> Iterator[TaggedSentence]:
    columns = _Columns(source, token, tag)
    document = 0
    lines: list[_Line] = []
    for number, text in numbered_lines(source, carriage_returns="refuse"):
        line = _line(number, text.rstrip(_BLANKS + "\r\n"))
        begins = _DOCUMENT in line.fields
        if not begins and any(line.fields):
            lines.append(line)
            continue
        if lines := _without_comments(lines):
            yield columns.sentence(lines, document)
        lines = []
        document += begins
    if lines := _without_comments(lines):
        yield columns.sentence(lines, document)


def _line(number: int, text: str) -> _Line:
    if "\t" in text:
        return _Line(number, [field.strip(_BLANKS) for field in text.split("\t")])
    return _Line(number, [field for field in text.split(" ") if field] or [""])


def _without_comments(lines: list[_Line]) -> list[_Line]:
    """Leave out the lines before a sentence that begin with #.

    GermEval 2014 and Universal NER put source, id and text of a sentence there.
    """
    for number, line in enumerate(lines):
        if line.fields[0] != "#":
            # A word can be # as well; then its line has as many columns as the others and no field `=`.
            columns = len(line.fields)
            words = [w for w in lines[:number] if len(w.fields) == columns and "=" not in w.fields]
            return words + lines[number:]
    # Comments alone, such as a licence at the beginning of a file, unless each line can be the word # with its tag.
    widths = {len(line.fields) for line in lines}
    can_be_words = widths == {2} or (len(widths) == 1 and all(_SPAN_TAG.fullmatch(line.fields[-1]) for line in lines))
    return lines if can_be_words else []


def _conllu_sentences(source: str, token: int, tag: int) -> Iterator[TaggedSentence]:
    columns = _Columns(source, token, tag)
    document = 0
    lines: list[_Line] = []
    for number, text in numbered_lines(source, carriage_returns="refuse"):
        text = text.rstrip(_BLANKS + "\r\n")
        if not text:
            if lines:
                yield _annotated(columns.sentence(lines, document))
            lines = []
        elif text.startswith("#"):
            document += text[1:].split()[:1] == ["newdoc"]
        else:
            line = _Line(number, text.split("\t"))
            identifier = line.fields[0]
            if identifier.isdecimal():
                lines.append(line)
            elif not identifier.replace("-", "0").replace(".", "0").isdecimal():
                raise InputError(
                    f"{source}: line {number}: the ID {identifier!r} is none of CoNLL-U's: a number, a range such as "
                    "1-2, or an empty node such as 1.1"
                )
    if lines:
        yield _annotated(columns.sentence(lines, document))


def _annotated(sentence: TaggedSentence) -> TaggedSentence:
    return sentence._replace(tags=None) if set(sentence.tags or ()) == {_UNKNOWN} else sentence


def _table_sentences(source: str, token: int | str | None, tag: int | str | None) -> Iterator[TaggedSentence]:
    warned = False
    for row in read_rows(source):
        words = _list(row, _TOKEN_NAME if token is None else token, False)
        name = next((name for name in _TAG_NAMES if name in row.values), None) if tag is None else tag
        tags = None
        if name is not None and (name not in row.values or not is_hidden(row.values[name])):
            tags = _list(row, name, are_tags=True)
            if name == "ner_tags" and not warned and tags and all(tag.isdecimal() for tag in tags):
                warned = True
                log.warning(
                    "%s: the tags in the column 'ner_tags' are numbers without names, which are read as plain "
                    "labels: write names such as B-PER for spans",
                    row.location,
                )
            if len(tags) != len(words):
                raise InputError(f"{row.location}: this row has {len(words)} words, but {len(tags)} tags")
        if words:
            yield TaggedSentence(row.location, words, tags, 0)


def _list(row: Row, name: int | str, are_tags: bool) -> list[str]:
    """Return the words or tags of a row; refuse a tag that is blank, or -100, which stands for no tag."""
    if name not in row.values:
        raise no_column(row, name)
    value = row.values[name]
    if isinstance(value, list):
        # Tags are often numbers without names.
        value = [str(item) if type(item) is int else item for item in value]
    items = texts(row.location, f"the column {name!r}", value)
    if are_tags:
        for number, tag in enumerate(items):
            if not tag.strip() or tag == _IGNORED:
                raise InputError(
                    f"{row.location}: item {number} of the column {name!r} is {tag!r}, which stands for no tag: "
                    "every word needs one"
                )
    return items


def _number(source: str, column: int | str, names: tuple[str, ...] = ()) -> int:
    if column in names:
        return names.index(str(column))
    try:
        return int(column)
    except ValueError:
        or_by_name = f" or by one of {', '.join(names)}" if names else ""
        raise InputError(
            f"{source}: the columns of this file are given by their number{or_by_name}, not by {column!r}"
        ) from None
