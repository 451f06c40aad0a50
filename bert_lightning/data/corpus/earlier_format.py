"""Token stores of the format before today's: a folder of three arrays per section, each verified as a whole.

STORE/manifest.json                holds the records of all shards
STORE/shard-00000/tokens.npy       all tokens of the shard's documents, end to end
                  sentences.npy    the end of each sentence, counted in tokens
                  documents.npy    the end of each document, counted in sentences and in tokens
                  shard.json       the shard's record: counts, checksums, and a key of the text it was made from

A shard of this format is what a section is today. Runs on such stores draw the same samples in the same order as
before.
"""

import ctypes
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, TypedDict, cast

import numpy as np
from numpy.typing import NDArray

from bert_lightning.checkpoints.files import sha256
from bert_lightning.data.corpus.sections import lengths_of
from bert_lightning.errors import InputError

EARLIER_FORMAT = 2
ARRAYS = ("tokens", "sentences", "documents")
# From <sys/mman.h>: drops the pages of a private mapping. When they are used, they are read from the file again.
_MADV_DONTNEED = 4
# Number of shards that are kept mapped. Each takes three of the 65,530 maps that Linux allows a process.
_NUM_OPEN = 1 << 13
# After this many reads, the memory-mapped pages are released.
_READS_HELD = 1 << 6


class ShardRecord(TypedDict):
    """The description of a shard in its `shard.json` and in the manifest."""

    key: str
    """SHA-256 of the text and of the settings that decide its tokens"""
    name: str
    """name of the folder"""
    num_documents: int
    num_sentences: int
    num_tokens: int
    num_unknown: int
    continues: bool
    """true if the first document continues one of the previous shard"""
    open: bool
    """true if the last document may continue in the next shard"""
    sentence_lengths: list[int]
    """histogram of lengths in tokens; bin k counts those above 2^(k - 1) and up to 2^k"""
    document_lengths: list[int]
    """the same for documents"""
    bytes: dict[str, int]
    """size of the file of each array"""
    sha256: dict[str, str]
    """SHA-256 of the file of each array"""
    record: str
    """SHA-256 of the rest of the record"""


class Shard:
    """The arrays of one shard, as views of its files; each file is verified when it is first read.

    Attributes:
        folder: the shard's folder.
        num_tokens: tokens in all of its documents.
        verified: names of the arrays that were compared with their checksums.
    """

    def __init__(self, folder: Path, record: ShardRecord, verified: set[str]) -> None:
        self.folder = folder
        self.verified = verified
        self.num_tokens = record["num_tokens"]
        self._record = record
        self._mapped: list[NDArray[np.uint8]] = []

    @cached_property
    def tokens(self) -> NDArray[np.unsignedinteger]:
        """Token ids, (tokens,)."""
        return self._array("tokens")

    @cached_property
    def sentences(self) -> NDArray[np.uint32]:
        """The end of each sentence in tokens, (sentences,)."""
        return self._array("sentences")

    @cached_property
    def documents(self) -> NDArray[np.uint32]:
        """The end of each document in sentences and in tokens, (documents, 2)."""
        return self._array("documents")

    def read(self, start: int, stop: int) -> NDArray[np.unsignedinteger]:
        """Return the tokens from `start` to `stop`, as a view of the file."""
        return self.tokens[start:stop]

    def document_lengths(self) -> NDArray[np.int64]:
        """Return the number of tokens in each document, (documents,)."""
        return lengths_of(self.documents[:, 1])

    def _array(self, name: str) -> NDArray[Any]:
        path = self.folder / f"{name}.npy"
        if name not in self.verified:
            fault = file_fault(self.folder, name, self._record)
            if fault:
                raise InputError(_with_repair(fault))
            self.verified.add(name)
        content = _map(path)
        self._mapped.append(content)
        return _array_of(path, content)

    def release(self) -> None:
        """Release the memory of the arrays; what is used later is read from the files again."""
        for content in self._mapped:
            _release(content)


class EarlierFiles:
    """The files of a store of the earlier format; see `StoreFiles`.

    Opening reads the sizes of all files. The checksum of a file is verified when the file is first read.

    Args:
        path: the folder of the store.
        manifest: its manifest.
        tokenizer_fingerprint: the fingerprint of its vocabulary.

    Raises:
        InputError: a file is missing or has a wrong size.
    """

    num_bytes: int | None = None

    def __init__(self, path: Path, manifest: Mapping[str, object], tokenizer_fingerprint: str) -> None:
        self.path = path
        self.records = cast(list[ShardRecord], manifest["shards"])
        self.fingerprint = str(manifest["fingerprint"])
        self.token_counts_sha256 = cast(str, manifest["token_counts_sha256"])
        if self.fingerprint != _fingerprint(tokenizer_fingerprint, self.records, self.token_counts_sha256):
            raise ValueError("its fingerprint differs")
        for record in self.records:
            fault = size_fault(self.path / record["name"], record)
            if fault:
                raise InputError(_with_repair(fault))
        self.num_shards = len(self.records)
        self.num_documents = np.array([record["num_documents"] for record in self.records], dtype=np.int64)
        self.num_tokens = np.array([record["num_tokens"] for record in self.records], dtype=np.int64)
        self.joined = np.array(
            [False] + [after["continues"] and before["open"] for before, after in pairwise(self.records)]
        )
        self._read: set[int] = set()
        self._num_reads = 0
        self._opened = lru_cache(_NUM_OPEN)(self._open)
        self._verified: list[set[str]] = [set() for _ in self.records]

    def section(self, number: int) -> Shard:
        """Return one shard; reading an array of it raises InputError if the file is damaged."""
        self._read.add(number)
        self._num_reads += 1
        if self._num_reads > _READS_HELD:
            # Pages that were read count as memory of this process. Without a release, it would finally hold them all.
            for each in self._read:
                self._opened(each).release()
            self._read, self._num_reads = {number}, 0
        return self._opened(number)

    def _open(self, number: int) -> Shard:
        record = self.records[number]
        return Shard(self.path / record["name"], record, self._verified[number])

    def chunk_counts(self, length: int) -> None:
        """Return None: this format does not record them."""

    def single_counts(self) -> None:
        """Return None: this format does not record them."""

    def hold(self, num_bytes: int) -> None:
        """Do nothing: the files are mapped."""

    def verify(self) -> None:
        """Read every file and compare it with its checksum.

        Raises:
            InputError: a file is missing or damaged; the message names it.
        """
        for record in self.records:
            fault = size_fault(self.path / record["name"], record) or next(
                (each for name in ARRAYS if (each := file_fault(self.path / record["name"], name, record))), None
            )
            if fault:
                raise InputError(_with_repair(fault))


def _fingerprint(tokenizer_fingerprint: str, records: Sequence[ShardRecord], token_counts_sha256: str) -> str:
    """Return the SHA-256 of the vocabulary and the records of all shards."""
    content = [tokenizer_fingerprint, records, token_counts_sha256]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def size_fault(folder: Path, record: ShardRecord) -> str | None:
    """Describe the file of a shard that is missing or has a wrong size; None if all have the recorded size."""
    for name in ARRAYS:
        path = folder / f"{name}.npy"
        try:
            size = path.stat().st_size
        except OSError:
            return f"{path} is missing"
        if size != record["bytes"].get(name):
            return f"{path} is damaged: it has {size:,} bytes and should have {record['bytes'].get(name):,}"
    return None


def file_fault(folder: Path, name: str, record: ShardRecord) -> str | None:
    """Describe what is wrong with the file of the array `name`; None if it is whole."""
    path = folder / f"{name}.npy"
    if not path.is_file():
        return f"{path} is missing"
    if sha256(path) != record["sha256"].get(name):
        return f"{path} is damaged: its SHA-256 differs from the one it was written with"
    return None


def _with_repair(fault: str) -> str:
    """Return a message about a damaged store, with the way to repair it."""
    return f"{fault}. Make the store again: run prepare with another folder as --output"


def _map(path: Path) -> NDArray[np.uint8]:
    """Map the bytes of a file into memory without keeping the file open.

    `np.load` with `mmap_mode` keeps a file descriptor open, and a large store would exceed their number.
    """
    import torch

    return torch.from_file(str(path), shared=False, size=path.stat().st_size, dtype=torch.uint8).numpy()


def _array_of(path: Path, content: NDArray[np.uint8]) -> NDArray[Any]:
    """Return the array of a `.npy` file as a view of its bytes."""
    with open(path, "rb") as file:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        start = file.tell()
    array: NDArray[Any] = content[start:].view(dtype).reshape(shape)
    array.flags.writeable = False
    return array


def _release(content: NDArray[np.uint8]) -> None:
    """Drop the pages of a mapped file from this process's memory; do nothing on systems other than Linux."""
    if sys.platform == "linux":
        _libc().madvise(ctypes.c_void_p(content.ctypes.data), ctypes.c_size_t(content.nbytes), _MADV_DONTNEED)


@lru_cache(1)
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)
