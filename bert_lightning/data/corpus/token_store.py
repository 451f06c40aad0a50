"""Token stores: a corpus as token ids on disk, in shards of memory-mapped arrays.

STORE/manifest.json            the records of all shards; written last, so a store without one is unfinished
STORE/token_counts.npy         how often each vocabulary entry occurs
STORE/vocab.txt, ...           the tokenizer
STORE/shard-00000/tokens.npy       all tokens of the shard's documents, end to end
                  sentences.npy    the end of each sentence, counted in tokens
                  documents.npy    the end of each document, counted in sentences and in tokens
                  shard.json       the shard's record: counts, checksums, and a key of the text it was made from

An end is the index after the last token (or the number after the last sentence), counted from the shard's start.
"""

import hashlib
import json
from collections.abc import Callable, Hashable
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import TypedDict, cast

import numpy as np
from numpy.typing import NDArray

from bert_lightning.checkpoints.files import sha256
from bert_lightning.checkpoints.tokenizers.tokenizer_files import VOCABULARY
from bert_lightning.data.corpus.shards import Shard, ShardRecord, shard_fault, size_fault, with_repair
from bert_lightning.errors import InputError
from bert_lightning.text.wordpiece import WordPieceTokenizer, load_tokenizer

FORMAT = 2
MANIFEST = "manifest.json"
TOKEN_COUNTS = "token_counts.npy"
# Number of shards that are kept mapped. Each takes three of the 65,530 maps that Linux allows a process.
_NUM_OPEN = 1 << 13
# After this many reads, the memory-mapped pages are released.
_READS_HELD = 1 << 6


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


class TokenStore:
    """An opened token store.

    Opening reads the manifest and checks the sizes of all files. The checksum of a file is verified when the file is
    first read. So a damaged file is never used, and a large corpus opens quickly.

    A document longer than a shard counts as several documents; `same_document` finds all of them.

    Attributes:
        path: the folder.
        tokenizer: the tokenizer that the store was made with.
        fingerprint: SHA-256 that changes with any token or boundary.
        num_documents: documents in all shards; a document in several shards counts once in each of them.
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
                raise InputError(with_repair(fault, record["name"]))
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
        return len(self._records)

    def shard(self, number: int) -> Shard:
        """Return one shard; reading an array of it raises InputError if the file is damaged."""
        self._read.add(number)
        self._num_reads += 1
        if self._num_reads > _READS_HELD:
            # Pages that were read count as memory of this process. Without a release, it would finally hold them all.
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
            The shard of the document; the number of its first sentence in the shard; the number after its last
            sentence; the index of its first token.
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

        They differ only if the document is in several shards.
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
                raise InputError(with_repair(fault, record["name"]))
        self.token_counts()

    def _open(self, number: int) -> Shard:
        record = self._records[number]
        return Shard(self.path / record["name"], record, self._verified[number])


def store_fingerprint(tokenizer_fingerprint: str, records: list[ShardRecord], token_counts_sha256: str) -> str:
    """Return the SHA-256 of the vocabulary and the records of all shards."""
    content = [tokenizer_fingerprint, records, token_counts_sha256]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _read_manifest(folder: Path) -> _Manifest:
    path = folder / MANIFEST
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; `bert-lightning prepare` makes a token store")
    if not path.is_file():
        raise InputError(f"{folder} has no {MANIFEST}: it is not a token store, or prepare did not finish")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: damaged: {error}") from None
    keys = ("format", "tokenizer", "fingerprint", "shards")
    missing = [key for key in keys if key not in manifest] if isinstance(manifest, dict) else keys
    if missing:
        raise InputError(f"{path}: damaged, or of another version: {', '.join(missing)} missing")
    return cast(_Manifest, manifest)
