"""Shard files: up to `SECTIONS_PER_SHARD` sections in one file, written complete or not at all.

    8 bytes     the letters BLTOKENS
    8 bytes     length of the list, little-endian
    32 bytes    SHA-256 of the list
    list        JSON: the bytes of a token, and the record of every section
    sections    one after the other, see `sections.py`

A section that `prepare` has just encoded is in such a file of its own, until its shard is complete.
"""

import hashlib
import json
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol, cast

from bert_lightning.checkpoints.files import write_atomically
from bert_lightning.data.corpus.sections import SectionPlace, SectionRecord, head_bytes

# Texts whose sections are one shard: about half a billion characters, or 300 MB.
SECTIONS_PER_SHARD = 128
_MAGIC = b"BLTOKENS"
_START = struct.Struct("<8sQ32s")
_COPIED = 1 << 22


def shard_of(section: int) -> int:
    """Return the shard of a section, by the number of its text.

    >>> shard_of(127), shard_of(128)
    (0, 1)
    """
    return section // SECTIONS_PER_SHARD


def shard_name(number: int) -> str:
    """Return the file name of a shard.

    >>> shard_name(7)
    'shard-00007.tokens'
    """
    return f"shard-{number:05d}.tokens"


def section_name(number: int) -> str:
    """Return the name of the file of a section that is not in a shard yet.

    >>> section_name(7)
    'section-0000007.tokens'
    """
    return f"section-{number:07d}.tokens"


@dataclass(frozen=True)
class PlacedSection:
    """A section in a file.

    Attributes:
        record: its description.
        place: where it is.
    """

    record: SectionRecord
    place: SectionPlace


class _Content(Protocol):
    """Writes the bytes of one section to a file."""

    def __call__(self, file: IO[bytes]) -> object: ...


def write_shard(path: Path, token_bytes: int, records: Sequence[SectionRecord], contents: Sequence[_Content]) -> None:
    """Write a shard, complete or not at all.

    Args:
        path: the file.
        token_bytes: bytes of a token.
        records: the record of each section.
        contents: for each section the function that writes its bytes.

    Raises:
        OSError: the file cannot be written.
    """
    listed = json.dumps({"token_bytes": token_bytes, "sections": records}, separators=(",", ":")).encode()

    def write(file: IO[bytes]) -> None:
        file.write(_START.pack(_MAGIC, len(listed), hashlib.sha256(listed).digest()))
        file.write(listed)
        for content in contents:
            content(file)

    write_atomically(path, write)


def copied(place: SectionPlace) -> _Content:
    """Return a function that copies the bytes of a section from its file."""

    def copy(file: IO[bytes]) -> None:
        with open(place.path, "rb") as source:
            source.seek(place.offset)
            left = place.num_bytes
            while left:
                block = source.read(min(left, _COPIED))
                if not block:
                    raise OSError(f"{place.path} was cut while it was read")
                file.write(block)
                left -= len(block)

    return copy


def read_shard(path: Path) -> list[PlacedSection]:
    """Read the list of a shard; its sections are verified when they are read.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is no shard, or its list is damaged.
    """
    with open(path, "rb") as file:
        start = file.read(_START.size)
        if len(start) < _START.size:
            raise ValueError("too short")
        magic, length, digest = _START.unpack(start)
        if magic != _MAGIC or length > os.fstat(file.fileno()).st_size:
            raise ValueError("no shard")
        listed = file.read(length)
    if hashlib.sha256(listed).digest() != digest:
        raise ValueError("the list is damaged")
    content = json.loads(listed)
    return list(_placed(path, _START.size + length, content["token_bytes"], content["sections"]))


def _placed(path: Path, offset: int, token_bytes: int, records: list[object]) -> Iterator[PlacedSection]:
    for each in records:
        record = cast(SectionRecord, each)
        counts = record["num_documents"], record["num_sentences"], record["num_tokens"]
        place = SectionPlace(path, offset, *counts, token_bytes, bytes.fromhex(record["sha256"]))
        yield PlacedSection(record, place)
        offset += head_bytes(*counts) + record["num_tokens"] * token_bytes
