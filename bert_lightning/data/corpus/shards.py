"""Shards on disk: the record of a shard, its arrays as views of its files, and checks for damage."""

import ctypes
import sys
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from bert_lightning.checkpoints.files import sha256
from bert_lightning.errors import InputError

SHARD_RECORD = "shard.json"
ARRAYS = ("tokens", "sentences", "documents")
# From <sys/mman.h>: drops the pages of a private mapping. When they are used, they are read from the file again.
_MADV_DONTNEED = 4


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


def shard_name(number: int) -> str:
    """Return the folder name of a shard.

    >>> shard_name(7)
    'shard-00007'
    """
    return f"shard-{number:05d}"


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

    def document_lengths(self) -> NDArray[np.int64]:
        """Return the number of tokens in each document, (documents,)."""
        return lengths_of(self.documents[:, 1])

    def _array(self, name: str) -> NDArray[Any]:
        path = self.folder / f"{name}.npy"
        if name not in self.verified:
            fault = file_fault(path, name, self._record)
            if fault:
                raise InputError(with_repair(fault, self.folder.name))
            self.verified.add(name)
        content = _map(path)
        self._mapped.append(content)
        return _array_of(path, content)

    def release(self) -> None:
        """Release the memory of the arrays; what is used later is read from the files again."""
        for content in self._mapped:
            _release(content)


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


def shard_fault(folder: Path, record: ShardRecord) -> str | None:
    """Describe the file of a shard that is missing or differs from its checksum; None if all are whole."""
    fault = size_fault(folder, record)
    if fault:
        return fault
    return next((fault for name in ARRAYS if (fault := file_fault(folder / f"{name}.npy", name, record))), None)


def file_fault(path: Path, name: str, record: ShardRecord) -> str | None:
    """Describe what is wrong with the file of the array `name`; None if it is whole."""
    if not path.is_file():
        return f"{path} is missing"
    if sha256(path) != record["sha256"].get(name):
        return f"{path} is damaged: its SHA-256 differs from the one it was written with"
    return None


def with_repair(fault: str, folder: str) -> str:
    """Return a message about a damaged shard, with the way to repair it."""
    return f"{fault}. Delete the folder {folder} and run prepare again"


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


def lengths_of(ends: NDArray[np.uint32]) -> NDArray[np.int64]:
    """Return the lengths of consecutive stretches from their ends, (n,) to (n,).

    >>> lengths_of(np.array([3, 5, 9], dtype=np.uint32))
    array([3, 2, 4])
    """
    wide = ends.astype(np.int64)
    return wide - np.concatenate(([0], wide[:-1]))
