"""A corpus as token ids on disk: shards of memory-mapped arrays, a manifest, and the vocabulary they were made with.

STORE/manifest.json            written last: a store without one is unfinished; holds the record of every shard
STORE/token_counts.npy         how often each vocabulary entry occurs
STORE/vocab.txt, ...           the tokenizer
STORE/shard-00000/tokens.npy       all tokens of the shard's documents, one after the other
                  sentences.npy    where each sentence ends, counted in tokens
                  documents.npy    where each document ends, counted in sentences and in tokens
                  shard.json       the shard's record: counts, checksums, and a key of what it was made from
"""

import ctypes
import hashlib
import json
import sys
from collections.abc import Callable, Hashable, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

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
# Shards held mapped at once: each takes three of the 65,530 maps that Linux grants a process.
_NUM_OPEN = 1 << 13
# After so many reads of a shard, the memory of what was read is given back.
_READS_HELD = 1 << 6
# <sys/mman.h>; of an unchanged private mapping it drops pages that can be read again.
_MADV_DONTNEED = 4


def shard_name(number: int) -> str:
    """The folder name of one shard."""
    return f"shard-{number:05d}"


class Shard:
    """The arrays of one shard, views of its files; each is verified when it is first read.

    Attributes:
        folder: where they lie.
        num_tokens: in all of its documents.
        verified: names of the arrays that were compared with their checksums.
    """

    def __init__(self, folder: Path, record: dict[str, Any], verified: set[str]) -> None:
        self.folder = folder
        self.verified = verified
        self.num_tokens: int = record["num_tokens"]
        self._record = record
        self._mapped: list[NDArray[np.uint8]] = []

    @cached_property
    def tokens(self) -> NDArray[np.unsignedinteger]:
        """(tokens,) ids."""
        return self._array("tokens")

    @cached_property
    def sentences(self) -> NDArray[np.uint32]:
        """(sentences,) where each ends, in tokens."""
        return self._array("sentences")

    @cached_property
    def documents(self) -> NDArray[np.uint32]:
        """(documents, 2) where each ends, in sentences and in tokens."""
        return self._array("documents")

    def document_lengths(self) -> NDArray[np.int64]:
        """(documents,) the tokens of each document."""
        return lengths_of(self.documents[:, 1])

    def _array(self, name: str) -> NDArray[Any]:
        path = self.folder / f"{name}.npy"
        if name not in self.verified:
            fault = file_fault(path, name, self._record)
            if fault:
                raise InputError(f"{fault}. Delete the folder {self.folder.name} and run prepare again")
            self.verified.add(name)
        content = _map(path)
        self._mapped.append(content)
        return _array_of(path, content)

    def release(self) -> None:
        """Give back the memory of what was read; it is read again as it is used."""
        for content in self._mapped:
            _forget(content)


class TokenStore:
    """An opened token store: opening takes one look at the manifest and the sizes of the files.

    A file's checksum is verified when it is first read, so opening takes no longer where the corpus is larger, and
    nothing damaged is ever read. A document longer than a shard counts as several, which `same_document` tells.

    Attributes:
        path: its folder.
        tokenizer: the one it was made with.
        fingerprint: SHA-256 that changes with any token or boundary.
        num_documents: documents in all shards; what lies in several of them counts in each.
        num_tokens: tokens in all shards.

    Raises:
        InputError: no store there, unfinished, or damaged; the message names the shard and file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        manifest = _read_record(self.path / MANIFEST, self.path, ("format", "tokenizer", "fingerprint", "shards"))
        try:
            self._take(manifest)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{self.path / MANIFEST}: damaged: {error!r}: run prepare again") from None

    def _take(self, manifest: dict[str, Any]) -> None:
        if manifest["format"] != FORMAT:
            raise InputError(
                f"{self.path} is a token store of format {manifest['format']}, and this version reads {FORMAT}: "
                "run prepare again, to another folder"
            )
        # Not the folder, where tokenizer.json would count instead of the file that the message below names.
        self.tokenizer: WordPieceTokenizer = load_tokenizer(self.path / VOCABULARY)
        if self.tokenizer.fingerprint != manifest["tokenizer"]["fingerprint"]:
            raise InputError(f"{self.path}: vocab.txt is not the vocabulary that this token store was made with")
        self._records: list[dict[str, Any]] = manifest["shards"]
        self.fingerprint: str = manifest["fingerprint"]
        self._token_counts_sha256 = manifest["token_counts_sha256"]
        if self.fingerprint != store_fingerprint(manifest):
            raise InputError(f"{self.path / MANIFEST}: damaged: run prepare again")
        for record in self._records:
            fault = size_fault(self.path / record["name"], record)
            if fault:
                raise InputError(f"{fault}. Delete the folder {record['name']} and run prepare again")
        self._first_documents = np.cumsum([0, *(record["num_documents"] for record in self._records)])
        self.num_documents = int(self._first_documents[-1])
        self.num_tokens = sum(record["num_tokens"] for record in self._records)
        # An array that grows with nothing but the shards: whether each goes on with the document before it.
        self._continues = [False] + [
            record["continues"] and before["open"]
            for before, record in zip(self._records, self._records[1:], strict=False)
        ]
        self._read: set[int] = set()
        self._num_reads = 0
        self._opened = lru_cache(_NUM_OPEN)(self._open)
        self._verified: list[set[str]] = [set() for _ in self._records]
        self._totals: dict[Hashable, NDArray[np.int64]] = {}

    @property
    def num_shards(self) -> int:
        """Shards."""
        return len(self._records)

    def shard(self, number: int) -> Shard:
        """One shard; reading an array of it raises an InputError where its file is damaged."""
        self._read.add(number)
        self._num_reads += 1
        if self._num_reads > _READS_HELD:
            # What is mapped counts as memory of this process until it is given back: in the end, all of the store.
            for each in self._read:
                self._opened(each).release()
            self._read, self._num_reads = {number}, 0
        return self._opened(number)

    def totals(self, key: Hashable, total_of: Callable[[int], int]) -> NDArray[np.int64]:
        """(shards,) the sums up to each shard of what `total_of` says of it; said once for each `key`."""
        if key not in self._totals:
            self._totals[key] = np.cumsum([total_of(shard) for shard in range(self.num_shards)])
        return self._totals[key]

    def first_document(self, shard: int) -> int:
        """The number of a shard's first document."""
        return int(self._first_documents[shard])

    def locate(self, document: int) -> tuple[Shard, int, int, int]:
        """The shard of a document, its first sentence and the one behind its last there, and its first token."""
        number = int(np.searchsorted(self._first_documents, document, side="right")) - 1
        shard, local = self.shard(number), document - int(self._first_documents[number])
        first, start = shard.documents[local - 1].tolist() if local else (0, 0)
        return shard, first, int(shard.documents[local, 0]), start

    def num_sentences(self, document: int) -> int:
        """Sentences of one document."""
        _, first, last, _ = self.locate(document)
        return last - first

    def sentence_ends(self, document: int) -> NDArray[np.int64]:
        """(sentences,) where each sentence of a document ends, in tokens from the document's start."""
        shard, first, last, start = self.locate(document)
        return shard.sentences[first:last].astype(np.int64) - start

    def tokens(self, document: int, start: int, stop: int) -> NDArray[np.unsignedinteger]:
        """Tokens `start` to `stop` of a document, a view of the file."""
        shard, _, _, offset = self.locate(document)
        return shard.tokens[offset + start : offset + stop]

    def same_document(self, document: int) -> tuple[int, int]:
        """First and last number of the stretch of documents that are one in the text: mostly one number, twice."""
        number = int(np.searchsorted(self._first_documents, document, side="right")) - 1
        first = last = document
        before, behind = number, number + 1
        while first == self._first_documents[before] and self._continues[before]:
            before -= 1
            first -= 1
        while behind < self.num_shards and last == self._first_documents[behind] - 1 and self._continues[behind]:
            behind += 1
            last += 1
        return first, last

    def token_counts(self) -> NDArray[np.int64]:
        """(V,) how often each vocabulary entry occurs.

        Raises:
            InputError: the file is damaged.
        """
        path = self.path / TOKEN_COUNTS
        if not path.is_file() or sha256(path) != self._token_counts_sha256:
            raise InputError(f"{path} is missing or damaged: run prepare again")
        counts: NDArray[np.int64] = np.load(path, allow_pickle=False)
        return counts

    def verify(self) -> None:
        """Read every file and compare it with its checksum.

        Raises:
            InputError: one is damaged; the message names it.
        """
        for record in self._records:
            fault = shard_fault(self.path / record["name"], record)
            if fault:
                raise InputError(f"{fault}. Delete the folder {record['name']} and run prepare again")
        self.token_counts()

    def _open(self, number: int) -> Shard:
        record = self._records[number]
        return Shard(self.path / record["name"], record, self._verified[number])


def _map(path: Path) -> NDArray[np.uint8]:
    """The bytes of a file, read from disk as they are used; keeps no file open.

    `np.load` with `mmap_mode` keeps a descriptor for each file: a large store would run out of them.
    """
    import torch

    return torch.from_file(str(path), shared=False, size=path.stat().st_size, dtype=torch.uint8).numpy()


def _array_of(path: Path, content: NDArray[np.uint8]) -> NDArray[Any]:
    """The array of a `.npy` file, a view of its bytes."""
    with open(path, "rb") as file:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        start = file.tell()
    array: NDArray[Any] = content[start:].view(dtype).reshape(shape)
    array.flags.writeable = False
    return array


def _forget(content: NDArray[np.uint8]) -> None:
    """Have the pages of a mapped file leave this process, where the system knows how."""
    if sys.platform == "linux":
        _libc().madvise(ctypes.c_void_p(content.ctypes.data), ctypes.c_size_t(content.nbytes), _MADV_DONTNEED)


@lru_cache(1)
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)


def lengths_of(ends: NDArray[np.uint32]) -> NDArray[np.int64]:
    """(n,) where each of n stretches ends -> (n,) how long each is."""
    wide = ends.astype(np.int64)
    return wide - np.concatenate(([0], wide[:-1]))


def store_fingerprint(manifest: dict[str, Any]) -> str:
    """SHA-256 over the vocabulary and the records of all shards."""
    parts = [manifest["tokenizer"]["fingerprint"], manifest["shards"], manifest["token_counts_sha256"]]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def size_fault(folder: Path, record: dict[str, Any]) -> str | None:
    """Say which file of a shard is missing or of another size than it was; None when there is none."""
    for name in ARRAYS:
        path = folder / f"{name}.npy"
        try:
            size = path.stat().st_size
        except OSError:
            return f"{path} is missing"
        if size != record["bytes"].get(name):
            return f"{path} is damaged: it has {size:,} bytes, not {record['bytes'].get(name):,}"
    return None


def shard_fault(folder: Path, record: dict[str, Any]) -> str | None:
    """Say which file of a shard is missing or differs from its checksum; None when all are whole."""
    fault = size_fault(folder, record)
    if fault:
        return fault
    return next((fault for name in ARRAYS if (fault := file_fault(folder / f"{name}.npy", name, record))), None)


def file_fault(path: Path, name: str, record: dict[str, Any]) -> str | None:
    """Say what is wrong with the file of the array `name`; None when it is whole."""
    if not path.is_file():
        return f"{path} is missing"
    if sha256(path) != record["sha256"].get(name):
        return f"{path} is damaged: its SHA-256 differs from the one it was written with"
    return None


def _read_record(path: Path, folder: Path, keys: Sequence[str]) -> dict[str, Any]:
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; a token store is made by `bert-lightning prepare`")
    if not path.is_file():
        raise InputError(f"{folder} has no {path.name}: it is no token store, or prepare did not finish")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        missing = [key for key in keys if key not in record]
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: damaged: {error}") from None
    if not isinstance(record, dict) or missing:
        raise InputError(f"{path}: damaged, or of another version: no {missing or keys}")
    return record
