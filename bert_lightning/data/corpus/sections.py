"""Sections: documents of about four million characters, their arrays and their bytes in a shard.

`prepare` encodes one section at a time. Training reads the sections of a large store in random order (`rounds.py`).
The bytes of a section in a shard are

    documents    (documents, 2) uint32, the end of each document in sentences and in tokens
    sentences    (sentences,) uint32, the end of each sentence in tokens
    digests      (frames, 32), the SHA-256 of each frame
    tokens       (tokens,) uint16, or uint32 if the vocabulary has more than 65,536 entries

An end is the index after the last token (or the number after the last sentence), counted from the section's start. A
frame is `FRAME` tokens. The first three arrays are the head of the section and have one checksum, so a random read
verifies the head once and then only the frames that it needs. All numbers are little-endian.
"""

import hashlib
import os
from pathlib import Path
from typing import NamedTuple, TypedDict, TypeVar

import numpy as np
from numpy.typing import NDArray

from bert_lightning.errors import InputError

# Tokens that are read and verified together. Smaller frames need more digests, and larger ones make a random read
# slower.
FRAME = 1 << 12
_DIGEST_BYTES = hashlib.sha256().digest_size
_Number = TypeVar("_Number", int, NDArray[np.int64])


class SectionRecord(TypedDict):
    """The description of a section in its shard."""

    key: str
    """SHA-256 of the text and of the settings that decide its tokens"""
    number: int
    """the number of its text; the texts without a token have no section"""
    num_documents: int
    num_sentences: int
    num_tokens: int
    num_single: int
    """documents of one token"""
    num_unknown: int
    continues: bool
    """true if the first document continues one of the previous text"""
    open: bool
    """true if the last document may continue in the next text"""
    sentence_lengths: list[int]
    """histogram of lengths in tokens; bin k counts those above 2^(k - 1) and up to 2^k"""
    document_lengths: list[int]
    """the same for documents"""
    sha256: str
    """SHA-256 of the head"""


class SectionArrays(NamedTuple):
    """The content of a section."""

    tokens: NDArray[np.unsignedinteger]
    """(tokens,)"""
    sentences: NDArray[np.uint32]
    """(sentences,) the end of each sentence in tokens"""
    documents: NDArray[np.uint32]
    """(documents, 2) the end of each document in sentences and in tokens"""


class SectionPlace(NamedTuple):
    """The place of a section in a file, with what is needed to read and verify it."""

    path: Path
    offset: int
    """the first byte of the section"""
    num_documents: int
    num_sentences: int
    num_tokens: int
    token_bytes: int
    """bytes of a token: 2 or 4"""
    sha256: bytes
    """SHA-256 of the head"""

    @property
    def num_frames(self) -> int:
        return -(-self.num_tokens // FRAME)

    @property
    def head_bytes(self) -> int:
        """Bytes before the tokens."""
        return head_bytes(self.num_documents, self.num_sentences, self.num_tokens)

    @property
    def num_bytes(self) -> int:
        return self.head_bytes + self.num_tokens * self.token_bytes


def head_bytes(num_documents: _Number, num_sentences: _Number, num_tokens: _Number) -> _Number:
    """Return the bytes of a section before its tokens; of one section, or of many."""
    return 8 * num_documents + 4 * num_sentences + _DIGEST_BYTES * -(-num_tokens // FRAME)


def section_bytes(arrays: SectionArrays) -> tuple[bytes, bytes]:
    """Return the head and the tokens of a section as bytes."""
    tokens = arrays.tokens.astype(arrays.tokens.dtype.newbyteorder("<")).tobytes()
    size = FRAME * arrays.tokens.itemsize
    digests = [hashlib.sha256(tokens[start : start + size]).digest() for start in range(0, len(tokens), size)]
    head = [arrays.documents.astype("<u4").tobytes(), arrays.sentences.astype("<u4").tobytes(), *digests]
    return b"".join(head), tokens


class Section:
    """A section of a shard: its head in memory, and those frames of its tokens that were read; all of it verified.

    Args:
        place: where the section is.

    Attributes:
        documents: (documents, 2) the end of each document in sentences and in tokens.
        sentences: (sentences,) the end of each sentence in tokens.
        num_tokens: tokens in all of its documents.
        num_bytes: the memory of the section once all of it was read.

    Raises:
        InputError: the file is missing, cut or damaged; the message names it.
    """

    def __init__(self, place: SectionPlace) -> None:
        self._place = place
        self.num_tokens = place.num_tokens
        self.num_bytes = place.num_bytes
        head = np.empty(place.head_bytes, np.uint8)
        with _Reader(place.path) as reader:
            # The tokens will be needed soon, and one request for all of them is cheaper than one per frame.
            reader.expect(place.offset, place.num_bytes)
            reader.read_into(head, place.offset)
        if hashlib.sha256(head.data).digest() != place.sha256:
            raise damaged(place.path, f"the SHA-256 of the section at byte {place.offset:,} differs")
        head.flags.writeable = False
        start, stop = 8 * place.num_documents, 8 * place.num_documents + 4 * place.num_sentences
        self.documents: NDArray[np.uint32] = head[:start].view("<u4").reshape(-1, 2)
        self.sentences: NDArray[np.uint32] = head[start:stop].view("<u4")
        self._digests = head[stop:].tobytes()
        self._tokens = np.empty(place.num_tokens, f"<u{place.token_bytes}")
        # The tokens as they are returned, which nobody can write to.
        self._readable = self._tokens.view()
        self._readable.flags.writeable = False
        self._verified = bytearray(place.num_frames)

    def read(self, start: int, stop: int) -> NDArray[np.unsignedinteger]:
        """Return the tokens from `start` to `stop`, as a view that cannot be written to."""
        first, after = start // FRAME, (stop - 1) // FRAME + 1
        if self._verified.find(0, first, after) >= 0:
            self._read_frames(first, after)
        return self._readable[start:stop]

    def document_lengths(self) -> NDArray[np.int64]:
        """Return the number of tokens in each document, (documents,)."""
        return lengths_of(self.documents[:, 1])

    def _read_frames(self, first: int, after: int) -> None:
        place = self._place
        frames = self._tokens[first * FRAME : after * FRAME]
        start = place.offset + place.head_bytes + first * FRAME * place.token_bytes
        with _Reader(place.path) as reader:
            reader.read_into(frames.view(np.uint8), start)
        for number in range(first, after):
            frame = self._tokens[number * FRAME : (number + 1) * FRAME]
            expected = self._digests[number * _DIGEST_BYTES : (number + 1) * _DIGEST_BYTES]
            if hashlib.sha256(frame.data).digest() != expected:
                byte = place.offset + place.head_bytes + number * FRAME * place.token_bytes
                raise damaged(place.path, f"the SHA-256 of the tokens at byte {byte:,} differs")
            self._verified[number] = 1


_REPAIR = "run the command that made the store again"


class _Reader:
    """A file that is open for reads at given offsets.

    It is not mapped into memory: if a mapped file is cut, reading it kills the process.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> "_Reader":
        try:
            self._file = open(self.path, "rb", buffering=0)
        except FileNotFoundError:
            raise missing(self.path) from None
        except OSError as error:
            raise self._unreadable(error) from None
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def expect(self, offset: int, num_bytes: int) -> None:
        """Let the system read bytes ahead, where it can."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._file.fileno(), offset, num_bytes, os.POSIX_FADV_WILLNEED)

    def read_into(self, array: NDArray[np.uint8], offset: int) -> None:
        """Fill an array with the bytes from `offset` on."""
        view = array.data
        try:
            self._file.seek(offset)
            while len(view):
                count = self._file.readinto(view)
                if not count:
                    raise damaged(self.path, f"it ends before byte {self._file.tell() + len(view):,}")
                view = view[count:]
        except OSError as error:
            raise self._unreadable(error) from None

    def _unreadable(self, error: OSError) -> InputError:
        return InputError(f"{self.path}: cannot be read: {error.strerror or error}")


def damaged(path: Path, fault: str) -> InputError:
    """Return an error about a damaged shard, with the way to repair it."""
    return InputError(f"{path} is damaged: {fault}. Delete {path.name} and {_REPAIR}")


def missing(path: Path) -> InputError:
    """Return the error for a file of a store that is not there, with the way to repair it."""
    return InputError(f"{path} is missing. To repair the store, {_REPAIR}")


def lengths_of(ends: NDArray[np.uint32]) -> NDArray[np.int64]:
    """Return the lengths of consecutive stretches from their ends, (n,) to (n,).

    >>> lengths_of(np.array([3, 5, 9], dtype=np.uint32))
    array([3, 2, 4])
    """
    wide = ends.astype(np.int64)
    return wide - np.concatenate(([0], wide[:-1]))
