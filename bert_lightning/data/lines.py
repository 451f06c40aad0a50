"""Bytes to lines of text: plain or compressed files and standard input, UTF-8, in bounded memory."""

import codecs
import gzip
import io
import lzma
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, cast

from bert_lightning.errors import InputError

DecodingErrors = Literal["strict", "replace"]
# What a few old data sets need: a line that is not UTF-8 is Latin-1, where every byte is a character.
Decoding = DecodingErrors | Literal["latin-1"]
STANDARD_INPUT = "-"
# Bytes of a line of running text that are held at once; what is longer comes in pieces.
MAX_PIECE = 1 << 20
# Bytes of one row of a table, which cannot be cut: a whole book may stand in one field.
MAX_ROW = 1 << 26
_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


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
    """The suffix that names the format: `.txt` of `corpus.txt` and of `corpus.txt.gz`."""
    path = Path(path)
    return Path(path.stem).suffix if path.suffix in COMPRESSIONS else path.suffix


def read_lines(source: str) -> Iterator[tuple[str, str]]:
    """Lines of a file or of standard input (`-`), each with its place as an error names it.

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
) -> Iterator[tuple[int, str]]:
    """Lines with their ends, numbered from 1.

    With `cut` a line of more than `MAX_PIECE` bytes comes in pieces of the same number, cut at a space where there is
    one. `repairs` counts that, and the bytes replaced. A byte-order mark is removed unless `keep_mark`.

    Raises:
        InputError: as `read_lines`, or a line of more than `MAX_ROW` bytes without `cut`.
    """
    repairs = repairs if repairs is not None else Repairs()
    limit = MAX_PIECE if cut else MAX_ROW
    offset, number, inside, rest = 0, 0, False, b""
    counted = 0
    try:
        with _open(source) as file:
            while raw := rest + file.readline(limit - len(rest)):
                number += not inside
                if inside and counted != number:
                    # Only now is it known that the line goes on behind the first piece.
                    repairs.num_cut += 1
                    counted = number
                whole = raw.endswith(b"\n") or len(raw) < limit
                if not whole and not cut:
                    raise InputError(f"{_name(source)}: line {number} is longer than {MAX_ROW:,} bytes")
                place = len(raw) if whole else _last_break(raw)
                raw, rest = raw[:place], raw[place:]
                inside = not whole
                line = _decoded(raw, errors, repairs, f"{_name(source)}: line {number}", offset)
                yield number, line if offset or keep_mark else line.removeprefix("\ufeff")
                offset += len(raw)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise InputError(f"{_name(source)}: cannot be read: {error}") from None


def _decoded(raw: bytes, errors: Decoding, repairs: Repairs, place: str, offset: int) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        if errors == "latin-1":
            return raw.decode("latin-1")
        if errors == "replace":
            text = raw.decode("utf-8", "replace")
            repairs.num_replaced += text.count("\ufffd") - raw.count("\ufffd".encode())
            return text
        hint = "; the file looks like UTF-16: convert it first" if raw[:2] in _UTF16_MARKS and not offset else ""
        raise InputError(
            f"{place}: byte {offset + error.start} (0x{raw[error.start]:02x}) is not UTF-8{hint}"
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
    return cast(IO[bytes], COMPRESSIONS.get(Path(source).suffix, _open_plain)(source))


def _open_plain(source: str) -> IO[bytes]:
    return open(source, "rb")


def _name(source: str) -> str:
    return "standard input" if source == STANDARD_INPUT else source


def named(sources: Sequence[str]) -> str:
    """What a message calls several inputs: the first one, and how many there are."""
    first = _name(sources[0])
    return first if len(sources) == 1 else f"{len(sources):,} inputs, the first of them {first}"
