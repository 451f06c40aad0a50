"""Bytes to lines of text: plain or compressed files and standard input, UTF-8, in bounded memory."""

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
from typing import IO, Any, Literal, cast

from bert_lightning.errors import InputError

log = logging.getLogger(__name__)
DecodingErrors = Literal["strict", "replace"]
# What a few old data sets need: a line that is not UTF-8 is Latin-1, where every byte is a character.
Decoding = DecodingErrors | Literal["latin-1"]
# The treatment of a carriage return inside a line of a file whose lines end in LF: `warn` and `allow` read it as a
# character, `refuse` raises. With `keep` it never ends a line, in any file.
CarriageReturns = Literal["warn", "allow", "refuse", "keep"]
STANDARD_INPUT = "-"
# Bytes of a line of running text that are held at once; what is longer comes in pieces.
MAX_PIECE = 1 << 20
# Bytes of one row of a table, which cannot be cut: a whole book may stand in one field.
MAX_ROW = 1 << 26
_LINE_END = re.compile(r"\r\n?|\n")
_RAW_LINE_END = re.compile(rb"\r\n?|\n")
# A first line that ends in CR alone. CR CR LF, which careless conversions write, is one line end.
_FIRST_RETURN = re.compile(rb"[^\r\n]*\r+[^\r\n]")
# What Python's `splitlines` takes for line ends, and no reader here does.
_OTHER_ENDS = re.compile("[\v\f\x1c-\x1e\x85\u2028\u2029]+")
# The first bytes of a file that is no UTF-8 -> what it is, and what to do.
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
    """What reading had to mend to go on.

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
COMPRESSIONS: dict[str, Callable[[str], Any]] = {".gz": gzip.open, ".xz": lzma.open, ".zst": _open_zstandard}


def format_suffix(path: str | Path) -> str:
    """The suffix that names the format: `.txt` of `corpus.txt`, `CORPUS.TXT` and `corpus.txt.gz`."""
    path = Path(path)
    return (Path(path.stem).suffix if is_compressed(path) else path.suffix).lower()


def is_compressed(path: str | Path) -> bool:
    """Whether a file's suffix says that it is compressed."""
    return Path(path).suffix.lower() in COMPRESSIONS


def read_lines(source: str) -> Iterator[tuple[str, str]]:
    """Lines of a file or of standard input (`-`), each with its location as an error names it.

    Line ends are removed, and so is a byte-order mark.

    Raises:
        InputError: unreadable, or not UTF-8: the message names line and byte offset.
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

    A file of a single line that holds several of these characters probably means them as line ends. It is warned
    about or refused, as `carriage_returns` says; standard input is not checked. A first line that ends in CR before
    lines that end in LF is warned about as well.

    With `cut` a line of more than `MAX_PIECE` bytes comes in pieces of the same number, cut at a space where there is
    one. `repairs` counts that, and the bytes replaced. A byte-order mark is removed unless `keep_mark`.

    Args:
        source: a file, or standard input (`-`).
        errors: the treatment of bytes that are not UTF-8.
        repairs: counts cut lines and replaced bytes.
        cut: whether long lines come in pieces.
        keep_mark: whether a byte-order mark stays.
        carriage_returns: the treatment of a carriage return inside a line, where lines end in LF.

    Raises:
        InputError: as `read_lines`; a line of more than `MAX_ROW` bytes without `cut`; or a carriage return or other
            separator that `carriage_returns` refuses.
    """
    repairs = repairs if repairs is not None else Repairs()
    limit = MAX_PIECE if cut else MAX_ROW
    offset, number, inside, rest = 0, 0, False, b""
    counted = 0
    line = ""
    ends: tuple[bytes, ...] = (b"\n",)
    look = report = carriage_returns in ("warn", "refuse")
    try:
        with _open(source) as file:
            first = file.readline(limit)
            begin = first[:_MARK_LENGTH]
            readline: Callable[[int], bytes] = file.readline
            if carriage_returns != "keep" and _FIRST_RETURN.match(first):
                ends, look = (b"\n", b"\r"), False
                if report and first.endswith(b"\n"):
                    log.warning(
                        "%s: line 1 ends in a carriage return, and a later one in LF: each of both ends a line",
                        _name(source),
                    )
                readline = _AnyLineEnds(file, first).readline
                first = readline(limit)
            while raw := rest + (first or readline(limit - len(rest))):
                first = b""
                number += not inside
                if inside and counted != number:
                    # Only now is it known that the line continues after the first piece.
                    repairs.num_cut += 1
                    counted = number
                whole = raw.endswith(ends) or len(raw) < limit
                if not whole and not cut:
                    raise InputError(f"{_name(source)}: line {number} is longer than {MAX_ROW:,} bytes")
                location = len(raw) if whole else _last_break(raw)
                raw, rest = raw[:location], raw[location:]
                inside = not whole
                line = _decoded(raw, errors, repairs, f"{_name(source)}: line {number}", offset, begin)
                # The cheapest test comes first, because this is seldom true.
                if look and "\r" in line and line.find("\r") < len(line) - 2 and "\r" in line.rstrip("\r\n"):
                    _report_return(_name(source), number, carriage_returns)
                    look = False
                yield number, line if offset or keep_mark else line.removeprefix("\ufeff")
                offset += len(raw)
        # A text that is typed or pasted may hold them.
        report = report and source != STANDARD_INPUT
        if report and number == 1 and len(found := _OTHER_ENDS.findall(line.strip(" \t\r\n"))) > 1:
            _report_other_ends(_name(source), found[0][0], carriage_returns)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise InputError(f"{_name(source)}: cannot be read: {error}") from None


def split_lines(text: str) -> list[str]:
    """Split a text at each LF, CRLF and CR. `splitlines` would split at other characters too."""
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
            known = end is not None and (self._finished or end.end() < len(self._buffer))
            if known or self._finished or len(self._buffer) - self._start > size:
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
    message = f"{name}: line {number}: a carriage return stands inside this line, though the first line ends in LF"
    if carriage_returns == "refuse":
        raise InputError(f"{message}: end every line in the same way")
    log.warning("%s: it is read as a character of the line", message)


def _report_other_ends(name: str, separator: str, carriage_returns: CarriageReturns) -> None:
    """Refuse a file of one line that holds other separators, or warn about it.

    Raises:
        InputError: it is to be refused.
    """
    message = f"{name}: this file is a single line, and holds U+{ord(separator):04X}, which ends no line"
    if carriage_returns == "refuse":
        raise InputError(f"{message}: end lines in LF")
    log.warning("%s; where it is to end lines, replace it by LF", message)


def _decoded(raw: bytes, errors: Decoding, repairs: Repairs, location: str, offset: int, begin: bytes) -> str:
    """Decode a line; `offset` is its location in the file, and `begin` are the first bytes of the file."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        if errors == "latin-1":
            return raw.decode("latin-1")
        if errors == "replace":
            text = raw.decode("utf-8", "replace")
            repairs.num_replaced += text.count("\ufffd") - raw.count("\ufffd".encode())
            return text
        looks = next((form for mark, form in _MARKS.items() if begin.startswith(mark)), None)
        hint = f"; the file looks like {looks}" if looks is not None else ""
        raise InputError(
            f"{location}: byte {offset + error.start} (0x{raw[error.start]:02x}) is not UTF-8{hint}"
        ) from None


def _last_break(raw: bytes) -> int:
    """Behind the last space, or before the last character where there is none."""
    space = raw.rfind(b" ") + 1
    if space:
        return space
    end = len(raw) - 1
    # Bytes 10xxxxxx go on with a character of UTF-8; a character has four at most.
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
    """Name inputs in a message: the first one, and how many there are."""
    first = _name(sources[0])
    return first if len(sources) == 1 else f"{len(sources):,} inputs, the first of them {first}"
