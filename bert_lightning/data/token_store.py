"""A corpus as token ids on disk: shards of memory-mapped arrays, a manifest, and the vocabulary they were made with.

STORE/manifest.json            written last: a store without one is unfinished
STORE/vocab.txt, ...           the tokenizer
STORE/shard-00000/tokens.npy           all tokens of the shard's documents, one after the other
                  sentence_ends.npy    where each sentence ends, counted in tokens
                  document_ends.npy    where each document ends, counted in sentences
                  token_counts.npy     how often each vocabulary entry occurs
                  shard.json           counts, checksums, and a key of what the shard was made from
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bert_lightning.checkpoints.files import sha256
from bert_lightning.errors import InputError
from bert_lightning.text.wordpiece import WordPieceTokenizer, load_tokenizer

MANIFEST = "manifest.json"
SHARD_RECORD = "shard.json"
ARRAYS = ("tokens", "sentence_ends", "document_ends", "token_counts")


def shard_name(number: int) -> str:
    """The folder name of one shard."""
    return f"shard-{number:05d}"


class TokenStore:
    """An opened token store; only the positions of documents are held in memory.

    Attributes:
        path: its folder.
        tokenizer: the one it was made with.
        fingerprint: SHA-256 that changes with any token or boundary.
        document_lengths: (documents,) tokens of each document.

    Raises:
        InputError: no store there, unfinished, or damaged; the message names the shard and file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        manifest = _read_record(self.path / MANIFEST, self.path, ("tokenizer", "fingerprint", "shards"))
        self.tokenizer: WordPieceTokenizer = load_tokenizer(self.path)
        if self.tokenizer.fingerprint != manifest["tokenizer"]["fingerprint"]:
            raise InputError(f"{self.path}: vocab.txt is not the vocabulary that this token store was made with")
        shards = [self.path / str(name) for name in manifest["shards"]]
        records = [_read_record(shard / SHARD_RECORD, shard, ("sha256",)) for shard in shards]
        self.fingerprint = store_fingerprint(self.tokenizer.fingerprint, [record["sha256"] for record in records])
        if self.fingerprint != manifest["fingerprint"]:
            raise InputError(f"{self.path / MANIFEST}: damaged, or it belongs to other shards: run prepare again")
        arrays = [_open_shard(shard, record) for shard, record in zip(shards, records, strict=True)]
        self._tokens = [shard["tokens"] for shard in arrays]
        self._sentence_ends = [shard["sentence_ends"] for shard in arrays]
        self._token_counts = [shard["token_counts"] for shard in arrays]
        document_ends = [np.asarray(shard["document_ends"]) for shard in arrays]
        first_sentences = [np.concatenate(([0], ends[:-1])) for ends in document_ends]
        self._shard_of = np.repeat(np.arange(len(shards)), [len(ends) for ends in document_ends])
        self._first_sentence = np.concatenate(first_sentences)
        self._last_sentence = np.concatenate(document_ends)
        lengths = []
        for ends, document_end in zip(self._sentence_ends, document_ends, strict=True):
            lengths.append(np.diff(np.asarray(ends)[document_end - 1], prepend=0))
        self.document_lengths: NDArray[np.int64] = np.concatenate(lengths)

    @property
    def num_documents(self) -> int:
        """Documents in all shards."""
        return len(self._shard_of)

    @property
    def num_tokens(self) -> int:
        """Tokens in all shards."""
        return int(self.document_lengths.sum())

    def num_sentences(self, document: int) -> int:
        """Sentences of one document."""
        return int(self._last_sentence[document] - self._first_sentence[document])

    def sentence_ends(self, document: int) -> NDArray[np.int64]:
        """(sentences,) where each sentence of a document ends, in tokens from the document's start."""
        first, last = self._first_sentence[document], self._last_sentence[document]
        ends = self._sentence_ends[self._shard_of[document]]
        start = ends[first - 1] if first else 0
        return ends[first:last] - start

    def tokens(self, document: int, start: int, stop: int) -> NDArray[np.unsignedinteger]:
        """Tokens `start` to `stop` of a document, a view of the file."""
        shard, first = self._shard_of[document], self._first_sentence[document]
        offset = int(self._sentence_ends[shard][first - 1]) if first else 0
        return self._tokens[shard][offset + start : offset + stop]

    def token_counts(self) -> NDArray[np.int64]:
        """(V,) how often each vocabulary entry occurs."""
        return np.sum(self._token_counts, axis=0, dtype=np.int64)


def store_fingerprint(tokenizer_fingerprint: str, checksums: Sequence[dict[str, str]]) -> str:
    """SHA-256 over the vocabulary and the checksums of all shards."""
    return hashlib.sha256(json.dumps([tokenizer_fingerprint, list(checksums)]).encode()).hexdigest()


def shard_fault(folder: Path, record: dict[str, Any]) -> str | None:
    """Say which file of a shard is missing or differs from its checksum; None when all are whole."""
    for name in ARRAYS:
        path = folder / f"{name}.npy"
        if not path.is_file():
            return f"{path} is missing"
        if sha256(path) != record["sha256"].get(name):
            return f"{path} is damaged: its SHA-256 differs from the one in {SHARD_RECORD}"
    return None


def _open_shard(folder: Path, record: dict[str, Any]) -> dict[str, NDArray[Any]]:
    fault = shard_fault(folder, record)
    if fault:
        raise InputError(f"{fault}. Delete the folder {folder.name} and run prepare again")
    return {name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in ARRAYS}


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
        raise InputError(f"{path}: damaged: no {missing or keys}")
    return record
