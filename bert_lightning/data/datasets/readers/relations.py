"""Relations between two entities of a text: SemEval-2010 task 8, tables with markers, and TACRED."""

import re
from collections.abc import Iterator

from bert_lightning.data.datasets.examples import RelationExample
from bert_lightning.data.reading.json_values import field, read_json, texts, typed
from bert_lightning.data.reading.lines import format_suffix, numbered_lines
from bert_lightning.data.reading.tables import Row, column, is_table, read_rows
from bert_lightning.data.reading.values import is_hidden
from bert_lightning.errors import InputError

_MARKER = re.compile(r"<(/?)e([12])>")
_NUMBERED = re.compile(r"(\d+)\t(.*)")
_COMMENT = "Comment:"
_TEXT_NAMES = ("text", "sentence")
_LABEL_NAMES = ("label", "relation")
_TOKEN_NAMES = ("token", "tokens")

Span = tuple[int, int]


def read_relations(
    source: str, text_column: str | None = None, label_column: str | None = None
) -> Iterator[RelationExample]:
    """Stream a source of one of three forms. Its suffix and columns decide which one.

    - **SemEval-2010 task 8** (Hendrickx et al. 2010), any text file: `number TAB "sentence"` with `<e1>..</e1>` and
      `<e2>..</e2>`, a line with the relation (none in the unlabelled test file), a line `Comment:`.
    - **Tables** and hub rows: a text with the same four markers (column `text` or `sentence` unless given) and its
      relation (column `label` or `relation` unless given). A relation that is missing, null, blank or -1 makes the
      text unlabelled.
    - **TACRED** (Zhang et al. 2017), rows or a `.json` list of objects: `token` (or `tokens`), `subj_start`,
      `subj_end`, `obj_start`, `obj_end` (ends inclusive) and `relation`; the words are joined by spaces.

    Blanks between a marker and its entity do not belong to the entity.

    Raises:
        InputError: a marker is missing, repeated or nested; an entity is empty or outside the words; a line is no
            numbered sentence, no relation of one and no comment; or a column is missing.

    >>> import tempfile
    >>> file = tempfile.NamedTemporaryFile("w", suffix=".jsonl")
    >>> _ = file.write('{"text": "The <e1>wind</e1> tore the <e2>sail</e2>.", "label": "Cause-Effect(e1,e2)"}')
    >>> file.flush()
    >>> [(example.text, example.first, example.second) for example in read_relations(file.name)]
    [('The wind tore the sail.', (4, 8), (18, 22))]
    """
    if format_suffix(source) == ".json":
        for number, values in enumerate(typed(source, "the file", read_json(source), list)):
            location = f"{source}: item {number + 1}"
            row = Row(location, typed(location, "the record", values, dict))
            yield _tacred_row(row, str(number), label_column)
    elif is_table(source):
        for number, row in enumerate(read_rows(source)):
            yield relation_of(row, str(number), text_column, label_column)
    else:
        yield from _semeval(source)


def relation_of(
    row: Row, number: str, text_column: str | None = None, label_column: str | None = None
) -> RelationExample:
    """Read a row in TACRED's form, or one with a marked text.

    Args:
        row: the row.
        number: the id of the example if the row has none.
        text_column: column of the marked text; None finds it, or TACRED's columns.
        label_column: column of the relation; None finds it.

    Raises:
        InputError: as `read_relations`.
    """
    if "subj_start" in row.values and text_column is None:
        return _tacred_row(row, number, label_column)
    return _marked_row(row, number, text_column, label_column)


def without_markers(location: str, marked: str) -> tuple[str, Span, Span]:
    """Remove the four markers of a text.

    Returns:
        The text, and begin and end of e1 and of e2 in its characters.

    Raises:
        InputError: a marker is missing, repeated or nested, or an entity is empty.

    >>> without_markers("line 1", "The <e1>boat</e1> left the <e2>bay</e2>.")
    ('The boat left the bay.', (4, 8), (18, 21))
    """
    markers = list(_MARKER.finditer(marked))
    tags = [marker.group() for marker in markers]
    for marker in ("<e1>", "</e1>", "<e2>", "</e2>"):
        if tags.count(marker) != 1:
            raise InputError(f"{location}: {marker} occurs {tags.count(marker)} times, but once is expected")
    order = [marker.group(1, 2) for marker in markers]
    if order not in [[("", a), ("/", a), ("", b), ("/", b)] for a, b in ("12", "21")]:
        raise InputError(f"{location}: the markers are nested or closed before they are opened: {' '.join(tags)}")
    spans = {}
    for number, (opening, closing) in enumerate((markers[:2], markers[2:])):
        entity = marked[opening.end() : closing.start()]
        if not entity.strip():
            raise InputError(f"{location}: the entity e{opening[2]} is empty")
        # Removed before it: this opening marker and, for the later entity, both markers of the earlier one.
        begin = opening.end() - sum(len(tag) for tag in tags[: 2 * number + 1])
        begin += len(entity) - len(entity.lstrip())
        spans[opening[2]] = begin, begin + len(entity.strip())
    return _MARKER.sub("", marked), spans["1"], spans["2"]


def _semeval(source: str) -> Iterator[RelationExample]:
    example: RelationExample | None = None
    is_comment = False
    for number, line in numbered_lines(source):
        location, text = f"{source}: line {number}", line.strip()
        if sentence := _NUMBERED.fullmatch(text):
            if example:
                yield example
            identifier, marked = sentence.groups()
            if len(marked) > 1 and marked[0] == marked[-1] == '"':
                marked = marked[1:-1]
            example = RelationExample(location, identifier, *without_markers(location, marked), None)
            is_comment = False
        elif not text or is_comment:
            # A comment may continue on the next line.
            is_comment = is_comment and bool(text)
        elif text.startswith(_COMMENT) and example:
            is_comment = True
        elif not example or example.label is not None or len(text.split()) > 1:
            raise InputError(
                f'{location}: a number, a tab and a "sentence" are expected, or the relation of the sentence before'
            )
        else:
            example = example._replace(label=text)
    if example:
        yield example


def _marked_row(row: Row, number: str, text_column: str | None, label_column: str | None) -> RelationExample:
    text_column = text_column or next((name for name in _TEXT_NAMES if name in row.values), _TEXT_NAMES[0])
    span = without_markers(row.location, column(row, text_column))
    return RelationExample(row.location, _id(row, number), *span, _label(row, label_column))


def _tacred_row(row: Row, number: str, label_column: str | None) -> RelationExample:
    location, values = row
    key = next((name for name in _TOKEN_NAMES if name in values), _TOKEN_NAMES[0])
    words = texts(location, f"the value of {key!r}", field(location, values, key, list))
    spans = [_characters(location, words, values, name) for name in ("subj", "obj")]
    return RelationExample(location, _id(row, number), " ".join(words), spans[0], spans[1], _label(row, label_column))


def _characters(location: str, words: list[str], values: dict[str, object], name: str) -> Span:
    start, end = (field(location, values, f"{name}_{side}", int) for side in ("start", "end"))
    if not 0 <= start <= end < len(words):
        raise InputError(
            f"{location}: {name}_start {start} and {name}_end {end} are not a range of the {len(words)} words"
        )
    begin = len(" ".join(words[:start])) + bool(start)
    return begin, begin + len(" ".join(words[start : end + 1]))


def _id(row: Row, number: str) -> str:
    return number if row.values.get("id") is None else column(row, "id")


def _label(row: Row, name: str | None) -> str | None:
    if name is None:
        name = next((name for name in _LABEL_NAMES if name in row.values), None)
    if name is None or is_hidden(row.values.get(name)):
        return None
    return column(row, name)
