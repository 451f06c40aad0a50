"""Token stores: a corpus as token ids on disk, in shards of memory-mapped arrays.

STORE/manifest.json            the records of all shards; written last, so a store without one is unfinished
STORE/token_counts.npy         how often each vocabulary entry occurs
STORE/vocab.txt, ...           the tokenizer
STORE/shard-00000/tokens.npy       all tokens of the shard's documents, end to end
                  sentences.npy    the end of each sentence, counted in tokens
                  documents.npy    the end of each document, counted in sentences and in tokens
                  shard.json       the shard's record: counts, checksums, and a key of the text it was made from

An end is the position after the last token (or the number after the last sentence), counted from the shard's start.
"""

import ctypes
import hashlib
import json
import sys
from collections.abc import Callable, Hashable
from functools import cached_property, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, TypedDict, cast

import numpy as np
from numpy.typing import NDArray

from bert_lightning.checkpoints.files import sha256
from bert_lightning.errors import InputError
from bert_lightning.text.wordpiece import VOCABULARY, WordPieceTokenizer, load_tokenizer

FORMAT = 2
MANIFEST = "manifest.json"
SHARD_RECORD = "shard.json"
TOKEN_COUNTS = "token_counts.npy"
ARRAYS = ("tokens", "sentences", "documents")
# Number of shards that are kept mapped. Each takes three of the 65,530 maps that Linux allows a process.
_NUM_OPEN = 1 << 13
# Memory of what was read is released after this many reads.
_READS_HELD = 1 << 6
# From <sys/mman.h>: drops the pages of a private mapping. They are read from the file again when they are used.
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
    """true if the first document continues one of the shard before"""
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


class _TokenizerRecord(TypedDict):
    fingerprint: str
    vocab_size: int


class _Manifest(TypedDict):
    """The entries of the manifest that are read."""

    format: int
    tokenizer: _TokenizerRecord
    token_counts_sha256: str
    shards: list[ShardRecord]
    fingerprint: str


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
                raise InputError(_repair(fault, self.folder.name))
            self.verified.add(name)
        content = _map(path)
        self._mapped.append(content)
        return _array_of(path, content)

    def release(self) -> None:
        """Release the memory of what was read; it is read from the files again when it is used."""
        for content in self._mapped:
            _release(content)


class TokenStore:
    """An opened token store.

    Opening reads the manifest and checks the sizes of all files. The checksum of a file is verified when the file is
    first read, so a damaged file is never used, and opening does not take longer for a larger corpus.

    A document longer than a shard counts as several documents; `same_document` finds all of them.

    Attributes:
        path: the folder.
        tokenizer: the tokenizer that the store was made with.
        fingerprint: SHA-256 that changes with any token or boundary.
        num_documents: documents in all shards; a document that lies in several shards counts in each.
        num_tokens: tokens in all shards.

    Raises:
        InputError: there is no store, or it is unfinished or damaged; the message names shard and file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        manifest = _read_manifest(self.path)
        try:
            self._open_manifest(manifest)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{self.path / MANIFEST}: damaged: {error!r}: run prepare again") from None

    def _open_manifest(self, manifest: _Manifest) -> None:
        if manifest["format"] != FORMAT:
            raise InputError(
                f"{self.path} is a token store of format {manifest['format']}, but this version reads format "
                f"{FORMAT}: run prepare again, with another folder as --output"
            )
        # Read vocab.txt, which the message below names: from the folder, tokenizer.json would be read instead.
        self.tokenizer: WordPieceTokenizer = load_tokenizer(self.path / VOCABULARY)
        if self.tokenizer.fingerprint != manifest["tokenizer"]["fingerprint"]:
            raise InputError(f"{self.path}: vocab.txt is not the vocabulary that this token store was made with")
        self._records = manifest["shards"]
        self.fingerprint = manifest["fingerprint"]
        self._token_counts_sha256 = manifest["token_counts_sha256"]
        if self.fingerprint != store_fingerprint(
            self.tokenizer.fingerprint, self._records, self._token_counts_sha256
        ):
            raise InputError(f"{self.path / MANIFEST}: damaged: run prepare again")
        for record in self._records:
            fault = size_fault(self.path / record["name"], record)
            if fault:
                raise InputError(_repair(fault, record["name"]))
        self._first_documents = np.cumsum([0, *(record["num_documents"] for record in self._records)])
        self.num_documents = int(self._first_documents[-1])
        self.num_tokens = sum(record["num_tokens"] for record in self._records)
        # For each shard, whether its first document continues the last one of the shard before.
        self._continues = [False] + [
            after["continues"] and before["open"] for before, after in pairwise(self._records)
        ]
        self._read: set[int] = set()
        self._num_reads = 0
        self._opened = lru_cache(_NUM_OPEN)(self._open)
        self._verified: list[set[str]] = [set() for _ in self._records]
        self._totals: dict[Hashable, NDArray[np.int64]] = {}

    @property
    def num_shards(self) -> int:
        """Number of shards."""
        return len(self._records)

    def shard(self, number: int) -> Shard:
        """Return one shard; reading an array of it raises InputError if the file is damaged."""
        self._read.add(number)
        self._num_reads += 1
        if self._num_reads > _READS_HELD:
            # Pages that were read count as memory of this process: without a release, in the end all of the store.
            for each in self._read:
                self._opened(each).release()
            self._read, self._num_reads = {number}, 0
        return self._opened(number)

    def totals(self, key: Hashable, total_of: Callable[[int], int]) -> NDArray[np.int64]:
        """Return the cumulative sums of `total_of(shard)` over all shards, (shards,); computed once per `key`."""
        if key not in self._totals:
            self._totals[key] = np.cumsum([total_of(shard) for shard in range(self.num_shards)])
        return self._totals[key]

    def first_document(self, shard: int) -> int:
        """Return the number of a shard's first document."""
        return int(self._first_documents[shard])

    def locate(self, document: int) -> tuple[Shard, int, int, int]:
        """Find a document.

        Returns:
            Its shard, and in the shard the number of its first sentence, the number after its last sentence, and the
            position of its first token.
        """
        number = int(np.searchsorted(self._first_documents, document, side="right")) - 1
        shard, local = self.shard(number), document - int(self._first_documents[number])
        first, start = shard.documents[local - 1].tolist() if local else (0, 0)
        return shard, first, int(shard.documents[local, 0]), start

    def num_sentences(self, document: int) -> int:
        """Return the number of sentences in a document."""
        _, first, last, _ = self.locate(document)
        return last - first

    def sentence_ends(self, document: int) -> NDArray[np.int64]:
        """Return the end of each sentence of a document, in tokens from the document's start, (sentences,)."""
        shard, first, last, start = self.locate(document)
        return shard.sentences[first:last].astype(np.int64) - start

    def tokens(self, document: int, start: int, stop: int) -> NDArray[np.unsignedinteger]:
        """Return tokens `start` to `stop` of a document, as a view of the file."""
        shard, _, _, offset = self.locate(document)
        return shard.tokens[offset + start : offset + stop]

    def same_document(self, document: int) -> tuple[int, int]:
        """Return the first and the last number of the documents that are one document in the text.

        They differ only if the document lies in several shards.
        """
        number = int(np.searchsorted(self._first_documents, document, side="right")) - 1
        first = last = document
        before, after = number, number + 1
        while first == self._first_documents[before] and self._continues[before]:
            before -= 1
            first -= 1
        while after < self.num_shards and last == self._first_documents[after] - 1 and self._continues[after]:
            after += 1
            last += 1
        return first, last

    def token_counts(self) -> NDArray[np.int64]:
        """Return how often each vocabulary entry occurs, (V,).

        Raises:
            InputError: the file is missing or damaged.
        """
        path = self.path / TOKEN_COUNTS
        if not path.is_file() or sha256(path) != self._token_counts_sha256:
            raise InputError(f"{path} is missing or damaged: run prepare again")
        counts: NDArray[np.int64] = np.load(path, allow_pickle=False)
        return counts

    def verify(self) -> None:
        """Read every file and compare it with its checksum.

        Raises:
            InputError: a file is missing or damaged; the message names it.
        """
        for record in self._records:
            fault = shard_fault(self.path / record["name"], record)
            if fault:
                raise InputError(_repair(fault, record["name"]))
        self.token_counts()

    def _open(self, number: int) -> Shard:
        record = self._records[number]
        return Shard(self.path / record["name"], record, self._verified[number])


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
    """Drop the pages of a mapped file from this process's memory; only Linux can."""
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


def store_fingerprint(tokenizer_fingerprint: str, records: list[ShardRecord], token_counts_sha256: str) -> str:
    """Return the SHA-256 of the vocabulary and the records of all shards."""
    content = [tokenizer_fingerprint, records, token_counts_sha256]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def size_fault(folder: Path, record: ShardRecord) -> str | None:
    """Describe the file of a shard that is missing or has a wrong size; None if there is none."""
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


def _repair(fault: str, folder: str) -> str:
    return f"{fault}. Delete the folder {folder} and run prepare again"


def _read_manifest(folder: Path) -> _Manifest:
    path = folder / MANIFEST
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; `bert-lightning prepare` makes a token store")
    if not path.is_file():
        raise InputError(f"{folder} has no {MANIFEST}: it is no token store, or prepare did not finish")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: damaged: {error}") from None
    keys = ("format", "tokenizer", "fingerprint", "shards")
    missing = [key for key in keys if key not in manifest] if isinstance(manifest, dict) else keys
    if missing:
        raise InputError(f"{path}: damaged, or of another version: {', '.join(missing)} missing")
    return cast(_Manifest, manifest)
