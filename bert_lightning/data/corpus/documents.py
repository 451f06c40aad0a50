"""From sources to documents: the layout of plain text, and the text of each document, passage by passage.

Only one passage is held in memory at a time, so a document may have any size.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Literal, NamedTuple

from bert_lightning.data.reading.lines import MAX_PIECE, DecodingErrors, Repairs, numbered_lines, split_lines
from bert_lightning.data.reading.sources import warn_of_json_row
from bert_lightning.data.reading.tables import column, is_table, read_rows
from bert_lightning.errors import InputError
from bert_lightning.text.sentences import split_sentences

Layout = Literal["auto", "sentences", "paragraphs"]
# A passage ends with the segment in which it reaches this many characters.
PASSAGE = 1 << 18


@dataclass(frozen=True)
class CorpusFormat:
    """Settings for reading text.

    Attributes:
        layout: `sentences`: one sentence per line, and a blank line between documents, as in the original format;
            `paragraphs`: running text, hard-wrapped lines joined, one document per file; `auto` decides for each
            file. In a table, a row is a document of running text, or a line if the layout is `sentences`.
        text_column: name of the text column in tables.
        language: language code, for sentence splitting.
        errors: the treatment of bytes that are not UTF-8: `strict` raises, `replace` reads them as U+FFFD.
        document_start: regular expression; a line that contains a match begins a document.
        lines_per_document: begin a document after this many lines of text.
    """

    layout: Layout = "auto"
    text_column: str = "text"
    language: str = "en"
    errors: DecodingErrors = "strict"
    document_start: str | None = None
    lines_per_document: int | None = None

    def __post_init__(self) -> None:
        try:
            re.compile(self.document_start or "")
        except re.error as error:
            raise InputError(
                f"--document-start is {self.document_start!r}; it must be a regular expression: {error}"
            ) from None
        if self.lines_per_document is not None and self.lines_per_document < 1:
            raise InputError(f"--lines-per-document is {self.lines_per_document}; it must be at least 1")


class Passage(NamedTuple):
    """A stretch of one document: all of it, or about `PASSAGE` characters."""

    segments: list[str]
    """sentences or paragraphs"""
    split: bool
    """true if the segments are paragraphs, which must still be split into sentences"""
    ends: bool
    """true if the document ends with this passage"""


def read_passages(source: str, corpus: CorpusFormat, repairs: Repairs | None = None) -> Iterator[Passage]:
    """Yield the passages of one source, document by document.

    Args:
        source: a file, or the name of a hub data set.
        corpus: settings for reading.
        repairs: counts what had to be repaired.

    Raises:
        InputError: the source cannot be read; the message names file and line.
    """
    repairs = repairs if repairs is not None else Repairs()
    split = True
    segments: Iterable[str | None]
    if is_table(source):
        split = corpus.layout != "sentences"
        segments = (_rows_as_documents if split else _rows_as_lines)(source, corpus, repairs)
    elif (detect_layout(source, corpus) if corpus.layout == "auto" else corpus.layout) == "sentences":
        split = False
        segments = _sentence_lines(line for _, line in _lines(source, corpus, repairs))
    else:
        segments = _paragraphs(source, corpus, repairs)
    if is_table(source) or not split:
        segments = _begin_documents(segments, corpus)
    yield from _passages(_cut_long(segments, repairs), split)


def _passages(segments: Iterable[str | None], split: bool) -> Iterator[Passage]:
    """Yield passages of segments; None ends a document, and a document without segments is dropped."""
    gathered: list[str] = []
    size = 0
    inside = False
    for segment in segments:
        if segment is None:
            if gathered or inside:
                yield Passage(gathered, split, ends=True)
            gathered, size, inside = [], 0, False
            continue
        if size >= PASSAGE:
            yield Passage(gathered, split, ends=False)
            gathered, size, inside = [], 0, True
        gathered.append(segment)
        size += len(segment)
    if gathered or inside:
        yield Passage(gathered, split, ends=True)


def _cut_long(segments: Iterable[str | None], repairs: Repairs) -> Iterator[str | None]:
    """Cut segments of more than `MAX_PIECE` characters, at a space if there is one."""
    for segment in segments:
        if segment is None or len(segment) <= MAX_PIECE:
            yield segment
            continue
        repairs.num_cut += 1
        start = 0
        while start < len(segment):
            space = segment.rfind(" ", start, start + MAX_PIECE) + 1
            end = len(segment) if start + MAX_PIECE >= len(segment) else space or start + MAX_PIECE
            yield segment[start:end]
            start = end


class _DocumentStarts:
    """The two settings of `corpus` that begin documents, applied line by line."""

    def __init__(self, corpus: CorpusFormat) -> None:
        self.pattern = re.compile(corpus.document_start) if corpus.document_start is not None else None
        self.max_lines = corpus.lines_per_document
        self.count = 0

    def begins(self, line: str) -> bool:
        """Return whether a line begins a document; the line must not be blank."""
        begins = (self.pattern is not None and self.pattern.search(line) is not None) or self.count == self.max_lines
        self.count = 1 if begins else self.count + 1
        return begins


def _begin_documents(segments: Iterable[str | None], corpus: CorpusFormat) -> Iterator[str | None]:
    """Begin documents by the two settings of `corpus`.

    If a pattern decides where documents begin, their other ends (None) are ignored.
    """
    starts = _DocumentStarts(corpus)
    for segment in segments:
        if segment is None:
            if starts.pattern is None:
                starts.count = 0
                yield None
            continue
        if starts.begins(segment):
            yield None
        yield segment


# -- tables ------------------------------------------------------------------------------------------------------


def _rows_as_documents(source: str, corpus: CorpusFormat, repairs: Repairs) -> Iterator[str | None]:
    for row in read_rows(source, errors=corpus.errors, repairs=repairs, blank_rows=True):
        for line in split_lines(column(row, corpus.text_column)):
            if line := line.strip():
                yield line
        yield None


def _rows_as_lines(source: str, corpus: CorpusFormat, repairs: Repairs) -> Iterator[str | None]:
    return _sentence_lines(
        line
        for row in read_rows(source, errors=corpus.errors, repairs=repairs, blank_rows=True)
        for line in split_lines(column(row, corpus.text_column)) or [""]
    )


# -- plain text --------------------------------------------------------------------------------------------------

_SENTENCE_END = re.compile(r"[.!?…。！？।؟:;][\"'”’»)\]]*$")


def detect_layout(source: str, corpus: CorpusFormat | None = None) -> Literal["sentences", "paragraphs"]:
    """Return the layout of a plain text file, judged by its first thousand lines of text.

    In the original format a line is a sentence: most lines end as sentences do and hold only one, and a document has
    several lines, up to a blank one. In running text, a line is a whole paragraph, or the text is wrapped and a line
    may end anywhere.
    """
    ended = single = lines = blocks = 0
    in_block = False
    corpus = corpus or CorpusFormat()
    for line in _first_lines(source, corpus):
        text = line.strip()
        if text:
            lines += 1
            blocks += not in_block
            ended += bool(_SENTENCE_END.search(text))
            single += len(split_sentences(text, corpus.language)) == 1
        in_block = bool(text)
        if lines == 1000:
            break
    several_per_block = lines >= 2 * max(blocks, 1)
    one_per_line = ended >= 0.7 * lines and single >= 0.8 * lines
    return "sentences" if several_per_block and one_per_line else "paragraphs"


def _lines(source: str, corpus: CorpusFormat, repairs: Repairs) -> Iterator[tuple[int, str]]:
    lines = numbered_lines(source, corpus.errors, repairs, cut=True)
    for number, line in lines:
        warn_of_json_row(f"{source}: line {number}", line)
        yield number, line
        break
    yield from lines


def _first_lines(source: str, corpus: CorpusFormat) -> list[str]:
    """Return the first two thousand lines, or those in the first `MAX_PIECE` characters."""
    lines: list[str] = []
    size = 0
    # Reading the whole file warns later, so no carriage return is warned about here.
    every = numbered_lines(source, corpus.errors, Repairs(), cut=True, carriage_returns="allow")
    for _, line in islice(every, 2000):
        lines.append(line)
        size += len(line)
        if size > MAX_PIECE:
            break
    return lines


def _sentence_lines(lines: Iterable[str]) -> Iterator[str | None]:
    for line in lines:
        yield line.strip() or None


class _Wrapping(NamedTuple):
    """The way in which running text is broken into lines."""

    wrapped: bool
    """lines are broken at a fixed width"""
    indented: bool
    """only the indentation of its first line marks a new paragraph"""
    width: int
    """largest width of 95 % of the lines, in characters"""


def _paragraphs(source: str, corpus: CorpusFormat, repairs: Repairs) -> Iterator[str | None]:
    """Yield paragraphs, each joined to one line, and None before a line that begins a document.

    Blank lines separate paragraphs. If lines are not hard-wrapped, each line is a paragraph. In a hard-wrapped file
    with almost no blank lines, a paragraph also starts at an indented line. In other hard-wrapped files, it also
    starts after a short line that ends a sentence.
    """
    block: list[str] = []
    size = 0
    wrapping = _wrapping(_first_lines(source, corpus))
    starts = _DocumentStarts(corpus)
    before = ""
    for _, line in _lines(source, corpus, repairs):
        text = line.strip()
        begins = bool(text) and starts.begins(text)
        starts_block = not text or not wrapping.wrapped or begins
        if wrapping.indented:
            starts_block |= line[:1] in " \t"
        else:
            starts_block |= len(before) < 0.7 * wrapping.width and bool(_SENTENCE_END.search(before))
        if not starts_block and size > MAX_PIECE:
            repairs.num_cut += 1
            starts_block = True
        if starts_block and block:
            yield " ".join(block)
            block, size = [], 0
        if begins:
            yield None
        if text:
            block.append(text)
            size += len(text)
        before = text
    if block:
        yield " ".join(block)


def _wrapping(lines: list[str]) -> _Wrapping:
    full = [line for line in lines if line.strip()]
    open_ended = sum(not _SENTENCE_END.search(line.strip()) for line in full)
    # Hard-wrapped: 95 % of the lines are no wider than a printed page, and most end inside a sentence.
    width = sorted(map(len, full))[int(0.95 * (len(full) - 1))] if full else 0
    wrapped = bool(full) and width <= 120 and open_ended >= 0.5 * len(full)
    few_blanks = (len(lines) - len(full)) < 0.02 * len(lines)
    indented = few_blanks and sum(line[:1] in " \t" for line in full) >= 0.02 * len(full)
    return _Wrapping(wrapped, indented, width)
