"""The files of an opened token store: what `TokenStore` needs of either format, and the files of today's format."""

import hashlib
import io
import json
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bert_lightning.data.corpus.section_tables import (
    CHUNK_COUNTS,
    SECTION_ROW,
    SECTIONS,
    ChunkTable,
    section_ends,
)
from bert_lightning.data.corpus.sections import Section, SectionPlace, damaged, missing
from bert_lightning.data.corpus.shard_files import shard_name

FORMAT = 3
_HEADS_KEPT = 8


class ReadableSection(Protocol):
    """A section whose arrays are verified before they are used."""

    num_tokens: int

    @property
    def documents(self) -> NDArray[np.uint32]:
        """The end of each document in sentences and in tokens, (documents, 2)."""

    @property
    def sentences(self) -> NDArray[np.uint32]:
        """The end of each sentence in tokens, (sentences,)."""

    def read(self, start: int, stop: int) -> NDArray[np.unsignedinteger]:
        """Return the tokens from `start` to `stop`."""

    def document_lengths(self) -> NDArray[np.int64]:
        """Return the number of tokens in each document, (documents,)."""


class StoreFiles(Protocol):
    """The files of an opened store.

    Attributes:
        fingerprint: SHA-256 that changes with any token or boundary.
        token_counts_sha256: SHA-256 of the file of token counts.
        num_shards: files or folders with tokens.
        num_documents: documents of each section, (sections,).
        num_tokens: tokens of each section, (sections,).
        joined: for each section whether its first document continues the last one of the section before.
        num_bytes: bytes of all sections; None in the earlier format, whose samples are shuffled as a whole.
    """

    fingerprint: str
    token_counts_sha256: str
    num_shards: int
    num_documents: NDArray[np.int64]
    num_tokens: NDArray[np.int64]
    joined: NDArray[np.bool_]
    num_bytes: int | None

    def section(self, number: int) -> ReadableSection:
        """Return one section."""

    def chunk_counts(self, length: int) -> NDArray[np.int64] | None:
        """Return for each section the sum over documents of ceil(tokens / length); None if that is not recorded."""

    def single_counts(self) -> NDArray[np.int64] | None:
        """Return for each section its documents of one token; None if that is not recorded."""

    def hold(self, num_bytes: int) -> None:
        """Keep at most about this many bytes of sections in memory."""

    def verify(self) -> None:
        """Read everything and compare it with its checksums."""


class ShardedFiles:
    """The files of a store of today's format (`shard_files.py` and `section_tables.py`); see `StoreFiles`.

    Opening reads the table of sections and the sizes of the shards. The sections used last are kept in memory.

    Args:
        path: the folder of the store.
        manifest: its manifest.
        tokenizer_fingerprint: the fingerprint of its vocabulary.

    Raises:
        InputError: a file is missing, or its size or its checksum is wrong.
    """

    def __init__(self, path: Path, manifest: Mapping[str, object], tokenizer_fingerprint: str) -> None:
        self.path = path
        self.fingerprint = str(manifest["fingerprint"])
        self.token_counts_sha256 = str(manifest["token_counts_sha256"])
        sections_sha256, chunk_counts_sha256 = (
            str(manifest[f"{name}_sha256"]) for name in ("sections", "chunk_counts")
        )
        token_bytes = manifest["token_bytes"]
        if token_bytes not in (2, 4) or not isinstance(token_bytes, int):
            raise ValueError(f"token_bytes is {token_bytes}")
        self._token_bytes = token_bytes
        if self.fingerprint != store_fingerprint(
            tokenizer_fingerprint, token_bytes, sections_sha256, chunk_counts_sha256, self.token_counts_sha256
        ):
            raise ValueError("its fingerprint differs")
        self._rows = _read_rows(path / SECTIONS, sections_sha256)
        self.num_documents = self._rows["num_documents"].astype(np.int64)
        self.num_tokens = self._rows["num_tokens"].astype(np.int64)
        self.joined = self._rows["joined"].astype(bool)
        self._chunks = ChunkTable(path / CHUNK_COUNTS, len(self._rows), chunk_counts_sha256)
        ends = section_ends(self._rows, token_bytes)
        self.num_bytes: int | None = int((ends - self._rows["offset"].astype(np.int64)).sum())
        self.num_shards = self._check_sizes(ends)
        self._limit = self.num_bytes
        self._held: OrderedDict[int, Section] = OrderedDict()
        self._held_bytes = 0

    def _check_sizes(self, ends: NDArray[np.int64]) -> int:
        """Check the size of every shard, and return their number."""
        last = np.flatnonzero(np.diff(self._rows["shard"].astype(np.int64), append=-1))
        for shard, expected in zip(self._rows["shard"][last].tolist(), ends[last].tolist(), strict=True):
            path = self.path / shard_name(shard)
            _check_size(path, expected)
        _check_size(self._chunks.path, self._chunks.num_bytes)
        return len(last)

    def section(self, number: int) -> Section:
        """Return one section, from memory if it is there.

        Raises:
            InputError: its file is missing or damaged.
        """
        section = self._held.get(number)
        if section is not None:
            self._held.move_to_end(number)
            return section
        section = Section(self._place(number))
        self._held[number] = section
        self._held_bytes += section.num_bytes
        while self._held_bytes > self._limit and len(self._held) > _HEADS_KEPT:
            _, oldest = self._held.popitem(last=False)
            self._held_bytes -= oldest.num_bytes
        return section

    def _place(self, number: int) -> SectionPlace:
        row = self._rows[number]
        return SectionPlace(
            self.path / shard_name(int(row["shard"])),
            int(row["offset"]),
            int(row["num_documents"]),
            int(row["num_sentences"]),
            int(row["num_tokens"]),
            self._token_bytes,
            row["sha256"].tobytes(),
        )

    def chunk_counts(self, length: int) -> NDArray[np.int64] | None:
        return self._chunks.row(length)

    def single_counts(self) -> NDArray[np.int64] | None:
        return self._rows["num_single"].astype(np.int64)

    def hold(self, num_bytes: int) -> None:
        self._limit = num_bytes

    def verify(self) -> None:
        """Read everything and compare it with its checksums.

        Raises:
            InputError: a file is missing or damaged; the message names it.
        """
        for number in range(len(self._rows)):
            section = Section(self._place(number))
            section.read(0, section.num_tokens)
        self._chunks.verify()


def store_fingerprint(
    tokenizer: str, token_bytes: int, sections_sha256: str, chunk_counts_sha256: str, token_counts_sha256: str
) -> str:
    """Return the SHA-256 of everything that a store holds: its tables hold the checksums of the rest."""
    content = [FORMAT, tokenizer, token_bytes, sections_sha256, chunk_counts_sha256, token_counts_sha256]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _read_rows(path: Path, sha256: str) -> NDArray[np.void]:
    try:
        content = path.read_bytes()
    except OSError:
        raise missing(path) from None
    if hashlib.sha256(content).hexdigest() != sha256:
        raise damaged(path, "its SHA-256 differs from the one it was written with")
    # Not `np.load`, which would copy the rows.
    header = io.BytesIO(content)
    np.lib.format.read_magic(header)
    shape, _, dtype = np.lib.format.read_array_header_1_0(header)
    if dtype != SECTION_ROW or len(shape) != 1 or not shape[0]:
        raise damaged(path, "it is no table of sections")
    rows: NDArray[np.void] = np.frombuffer(content, SECTION_ROW, offset=header.tell())
    return rows


def _check_size(path: Path, expected: int) -> None:
    try:
        size = path.stat().st_size
    except OSError:
        raise missing(path) from None
    if size != expected:
        raise damaged(path, f"it has {size:,} bytes and should have {expected:,}")
