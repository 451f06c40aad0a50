"""Lines of text from files (plain or compressed) and from standard input, in UTF-8 and in bounded memory."""

import codecs
import gzip
import io
import logging
import lzma
import re
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, NamedTuple, cast

from bert_lightning.errors import InputError

log = logging.getLogger(__name__)
DecodingErrors = Literal["strict", "replace"]
# Some old data sets need "latin-1". It applies only to lines that are not UTF-8, and reads each byte as a character.
Decoding = DecodingErrors | Literal["latin-1"]
# The treatment of a carriage return inside a line of a file whose lines end in LF: `warn` and `allow` read it as a
# character, `refuse` raises. With `keep` a carriage return never ends a line, in any file.
CarriageReturns = Literal["warn", "allow", "refuse", "keep"]
STANDARD_INPUT = "-"
# Bytes of a line of running text that are held at once; longer lines come in pieces.
MAX_PIECE = 1 << 20
# Bytes of one row of a table. A row cannot be cut, and one field may hold a whole book.
MAX_ROW = 1 << 26
_LINE_END = re.compile(r"\r\n?|\n")
_LF_ONLY = (b"\n",)
_ANY_END = (b"\n", b"\r")
_RAW_LINE_END = re.compile(rb"\r\n?|\n")
# A first line that ends in CR alone. CR CR LF, which careless conversions write, is one line end.
_FIRST_RETURN = re.compile(rb"[^\r\n]*\r+[^\r\n]")
# Python's `splitlines` splits at these characters too; no reader here does.
_OTHER_ENDS = re.compile("[\v\f\x1c-\x1e\x85\u2028\u2029]+")
# The first bytes of a file that is not UTF-8 -> its format, and what to do.
_MARK_LENGTH = 6
_MARKS = {
    codecs.BOM_UTF16_LE: "UTF-16: convert it first",
    codecs.BOM_UTF16_BE: "UTF-16: convert it first",
    b"\x1f\x8b": "gzip: give it a name that ends in .gz",
    b"\xfd7zXZ\0": "xz: give it a name that ends in .xz",
    b"\x28\xb5\x2f\xfd": "Zstandard: give it a name that ends in .zst",
    b"PK\x03\x04": "a ZIP archive or an Excel workbook: unpack it, or save it as CSV",
    b"PAR1": "Parquet: give it a name that ends in .parquet",
}


@dataclass
class Repairs:
    """Counts of the repairs that reading a text needed.

    Attributes:
        num_replaced: undecodable bytes that became U+FFFD.
        num_cut: lines, or paragraphs of joined lines, that were cut because they were too long.
    """

    num_replaced: int = 0
    num_cut: int = 0


def _open_zstandard(path: str) -> IO[bytes]:
    import pyarrow

    return cast(IO[bytes], io.BufferedReader(pyarrow.input_stream(path, compression="zstd")))


# suffix -> how the file is opened.
COMPRESSIONS: dict[str, Callable[[str], object]] = {".gz": gzip.open, ".xz": lzma.open, ".zst": _open_zstandard}


def format_suffix(path: str | Path) -> str:
    """Return the suffix that names the format, in lower case and without that of a compression.

    >>> [format_suffix(name) for name in ("corpus.txt", "CORPUS.TXT", "corpus.txt.gz")]
    ['.txt', '.txt', '.txt']
    """
    path = Path(path)
    return (Path(path.stem).suffix if is_compressed(path) else path.suffix).lower()


def is_compressed(path: str | Path) -> bool:
    """Return whether the suffix of a file is that of a compression."""
    return Path(path).suffix.lower() in COMPRESSIONS


def read_lines(source: str) -> Iterator[tuple[str, str]]:
    r"""Read the lines of a file or of standard input (`-`), each with its location as an error names it.

    Line ends are removed, and so is a byte-order mark.

    Raises:
        InputError: the source is unreadable, or not UTF-8. The message names line and byte offset.

    >>> import tempfile
    >>> file = tempfile.NamedTemporaryFile("w", suffix=".txt")
    >>> _ = file.write("a boat\nthe sea\n"); file.flush()
    >>> [line for location, line in read_lines(file.name)]
    ['a boat', 'the sea']
    """
    for number, line in numbered_lines(source):
        yield f"{_name(source)}: line {number}", line.rstrip("\r\n")


def numbered_lines(
    source: str,
    errors: Decoding = "strict",
    repairs: Repairs | None = None,
    cut: bool = False,
    keep_mark: bool = False,
    carriage_returns: CarriageReturns = "warn",
) -> Iterator[tuple[int, str]]:
    """Read lines with their ends, numbered from 1.

    The first line decides how lines end. If it ends in LF or CRLF, a later carriage return alone is a character of
    its line. If it ends in a carriage return alone, as on old Macs, every CR, LF and CRLF ends a line. No other
    character ends a line: it may hold U+0085, U+2028, a vertical tab or a form feed.

    If a file of a single line holds several of these characters, they are probably meant as line ends. Depending on
    `carriage_returns`, such a file is warned about or refused; standard input is not checked. A first line that ends
    in CR before lines that end in LF is warned about as well.

    With `cut` a line of more than `MAX_PIECE` bytes comes in pieces of the same number, cut after a space if there is
    one. `repairs` counts that, and the bytes replaced. A byte-order mark is removed unless `keep_mark`.

    Args:
        source: a file, or standard input (`-`).
        errors: the treatment of bytes that are not UTF-8.
        repairs: counts cut lines and replaced bytes.
        cut: whether long lines come in pieces.
        keep_mark: whether a byte-order mark stays.
        carriage_returns: the treatment of a carriage return inside a line of a file whose lines end in LF.

    Raises:
        InputError: as `read_lines`; a line of more than `MAX_ROW` bytes without `cut`; or a carriage return or other
            separator that `carriage_returns` refuses.
    """
    name = _name(source)
    repairs = repairs if repairs is not None else Repairs()
    offset, number, line = 0, 0, ""
    try:
        with _open(source) as file:
            stream = _begin(file, name, MAX_PIECE if cut else MAX_ROW, carriage_returns)
            may_return = carriage_returns in ("warn", "refuse") and stream.ends == _LF_ONLY
            for number, raw in _pieces(stream, name, cut, repairs):
                line = _decoded(raw, errors, repairs, f"{name}: line {number}", offset, stream.mark)
                # The cheapest test comes first, because this is seldom true.
                if may_return and "\r" in line and line.find("\r") < len(line) - 2 and "\r" in line.rstrip("\r\n"):
                    _report_return(name, number, carriage_returns)
                    may_return = False
                yield number, line if offset or keep_mark else line.removeprefix("\ufeff")
                offset += len(raw)
        # Standard input is not checked, because a text that is typed or pasted may hold other separators.
        if carriage_returns in ("warn", "refuse") and source != STANDARD_INPUT and number == 1:
            _check_other_ends(name, line, carriage_returns)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise InputError(f"{name}: cannot be read: {error}") from None


class _Stream(NamedTuple):
    """A binary file after its first line has shown how lines end."""

    first: bytes
    """The first line, or the first piece of it."""
    readline: Callable[[int], bytes]
    """Returns the next line, or as many bytes of it as asked for."""
    ends: tuple[bytes, ...]
    limit: int
    """Bytes that are held at once."""
    mark: bytes
    """The first bytes of the file, which identify its format."""


def _begin(file: IO[bytes], name: str, limit: int, carriage_returns: CarriageReturns) -> _Stream:
    """Read the first line, and warn if it ends in CR and a later one in LF."""
    first = file.readline(limit)
    mark = first[:_MARK_LENGTH]
    if carriage_returns == "keep" or not _FIRST_RETURN.match(first):
        return _Stream(first, file.readline, _LF_ONLY, limit, mark)
    if carriage_returns in ("warn", "refuse") and first.endswith(b"\n"):
        log.warning("%s: line 1 ends in a carriage return, and a later one in LF: both are read as line ends", name)
    readline = _AnyLineEnds(file, first).readline
    return _Stream(readline(limit), readline, _ANY_END, limit, mark)


def _pieces(stream: _Stream, name: str, cut: bool, repairs: Repairs) -> Iterator[tuple[int, bytes]]:
    """Yield lines with their numbers, and a line that is too long in pieces of the same number.

    Raises:
        InputError: a line is too long, and `cut` is False.
    """
    pending, rest, readline, limit = stream.first, b"", stream.readline, stream.limit
    number, last_cut, inside = 0, 0, False
    while raw := rest + (pending or readline(limit - len(rest))):
        pending = b""
        number += not inside
        if inside and last_cut != number:
            # A piece counts as cut only now, because its line might have ended with it.
            repairs.num_cut += 1
            last_cut = number
        whole = raw.endswith(stream.ends) or len(raw) < limit
        if not whole and not cut:
            raise InputError(f"{name}: line {number} is longer than {MAX_ROW:,} bytes")
        end = len(raw) if whole else _last_break(raw)
        raw, rest = raw[:end], raw[end:]
        inside = not whole
        yield number, raw


def split_lines(text: str) -> list[str]:
    r"""Split a text at each LF, CRLF and CR. `splitlines` would split at other characters too.

    >>> split_lines("a\r\nb\x0cc\n")
    ['a', 'b\x0cc']
    """
    lines = _LINE_END.split(text)
    return lines if lines[-1] else lines[:-1]


class _AnyLineEnds:
    """A binary file in which every CR, LF and CRLF ends a line."""

    def __init__(self, file: IO[bytes], begin: bytes) -> None:
        self._file, self._buffer = file, begin
        self._start = 0
        self._finished = False

    def readline(self, size: int) -> bytes:
        """Return the next line with its end, or a piece of `size` bytes; empty at the end of the file."""
        while True:
            end = _RAW_LINE_END.search(self._buffer, self._start)
            # An LF may follow if a CR is the last byte read so far.
            is_certain = end is not None and (self._finished or end.end() < len(self._buffer))
            if is_certain or self._finished or len(self._buffer) - self._start > size:
                break
            more = self._file.read(MAX_PIECE)
            self._buffer, self._start = self._buffer[self._start :] + more, 0
            self._finished = not more
        stop = self._start + size
        if end is not None and end.start() < stop:
            stop = end.end()
        line = self._buffer[self._start : stop]
        self._start += len(line)
        return line


def _report_return(name: str, number: int, carriage_returns: CarriageReturns) -> None:
    """Refuse a carriage return inside a line, or warn about it.

    Raises:
        InputError: `carriage_returns` is `refuse`.
    """
    message = f"{name}: line {number}: this line holds a carriage return, though the first line ends in LF"
    if carriage_returns == "refuse":
        raise InputError(f"{message}: end every line in the same way")
    log.warning("%s: it is read as a character of the line", message)


def _check_other_ends(name: str, line: str, carriage_returns: CarriageReturns) -> None:
    """Refuse a file of one line that holds several other separators, or warn about it.

    Raises:
        InputError: `carriage_returns` is `refuse`.
    """
    separators = _OTHER_ENDS.findall(line.strip(" \t\r\n"))
    if len(separators) < 2:
        return
    code = f"U+{ord(separators[0][0]):04X}"
    message = f"{name}: this file is a single line that holds {code} several times, which does not end lines"
    if carriage_returns == "refuse":
        raise InputError(f"{message}: end lines in LF")
    log.warning("%s; if it is meant to end lines, replace it by LF", message)


def _decoded(raw: bytes, errors: Decoding, repairs: Repairs, location: str, offset: int, mark: bytes) -> str:
    """Decode a line. `offset` counts the bytes before it, and `mark` are the first bytes of the file."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        if errors == "latin-1":
            return raw.decode("latin-1")
        if errors == "replace":
            text = raw.decode("utf-8", "replace")
            repairs.num_replaced += text.count("\ufffd") - raw.count("\ufffd".encode())
            return text
        looks = next((description for begin, description in _MARKS.items() if mark.startswith(begin)), None)
        hint = f"; the file looks like {looks}" if looks is not None else ""
        raise InputError(
            f"{location}: byte {offset + error.start} (0x{raw[error.start]:02x}) is not UTF-8{hint}"
        ) from None


def _last_break(raw: bytes) -> int:
    """Return where to cut off a piece: after its last space, or before its last character if it has no space."""
    space = raw.rfind(b" ") + 1
    if space:
        return space
    end = len(raw) - 1
    # Bytes 10xxxxxx continue a character of UTF-8; a character has four bytes at most.
    while end > len(raw) - 4 and raw[end] & 0xC0 == 0x80:
        end -= 1
    return max(end, 1)


def _open(source: str) -> AbstractContextManager[IO[bytes]]:
    if source == STANDARD_INPUT:
        return nullcontext(sys.stdin.buffer)
    return cast(IO[bytes], COMPRESSIONS.get(Path(source).suffix.lower(), _open_plain)(source))


def _open_plain(source: str) -> IO[bytes]:
    return open(source, "rb")


def _name(source: str) -> str:
    return "standard input" if source == STANDARD_INPUT else source or "the input with an empty name"


def named(sources: Sequence[str]) -> str:
    """Name inputs in a message: the first one, and how many there are.

    >>> named(["a.txt", "b.txt"])
    '2 inputs, the first of them a.txt'
    """
    first = _name(sources[0])
    return first if len(sources) == 1 else f"{len(sources):,} inputs, the first of them {first}"
