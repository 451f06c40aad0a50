"""One shard of a token store: text to arrays, written complete or not at all."""

import hashlib
import io
import json
import os
import shutil
import socket
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bert_lightning.checkpoints.files import sync_folder, write_bytes, write_json
from bert_lightning.checkpoints.tokenizer_files import Vocabulary
from bert_lightning.data.corpus.documents import Passage
from bert_lightning.data.corpus.token_store import SHARD_RECORD, lengths_of, shard_fault
from bert_lightning.errors import WorkError
from bert_lightning.text.encoding import CachingEncoder
from bert_lightning.text.sentences import split_sentences
from bert_lightning.text.wordpiece import WordPieceTokenizer

# A longer sentence is stored in pieces of this many tokens, so that pairs can begin inside it.
MAX_SENTENCE = 512
# Characters that are encoded in one go.
_SLAB = 1 << 20
# Lengths are counted in bins whose upper ends are 1, 2, 4, ... tokens.
NUM_LENGTH_BINS = 33


class ShardText(NamedTuple):
    """What one shard is made of."""

    number: int
    passages: list[Passage]
    continues: bool
    """whether the first passage goes on with a document of the shard before"""


class Encoding(NamedTuple):
    """How text becomes tokens, as plain values that travel between processes."""

    vocabulary: Vocabulary
    language: str
    settings_key: str
    """of all that decides the tokens"""


def shard_key(text: ShardText, encoding: Encoding) -> str:
    """SHA-256 over the text of a shard and all that decides its tokens."""
    digest = hashlib.sha256(f"{encoding.settings_key} {text.continues}".encode())
    for passage in text.passages:
        # Lengths first, so that no two lists of segments look alike.
        digest.update(repr((passage.split, passage.ends, [len(s) for s in passage.segments])).encode())
        digest.update("".join(passage.segments).encode())
    return digest.hexdigest()


def kept_record(folder: Path, key: str) -> dict[str, Any] | None:
    """The record of a shard that an earlier call finished from the same text, if it is whole."""
    try:
        record = json.loads((folder / SHARD_RECORD).read_text(encoding="utf-8"))
        whole = record["key"] == key and _own_sum(record) == record["record"] and shard_fault(folder, record) is None
    except (OSError, ValueError, TypeError, LookupError, AttributeError):
        return None
    return record if whole else None


class ShardWriter:
    """Makes shards; remembers words from one to the next."""

    def __init__(self, tokenizer: WordPieceTokenizer, language: str) -> None:
        self.tokenizer = tokenizer
        self.language = language
        self.encoder = CachingEncoder(tokenizer)
        self.dtype = np.uint16 if len(tokenizer) <= 1 << 16 else np.uint32

    def write(self, text: ShardText, folder: Path, key: str) -> dict[str, Any] | None:
        """Encode and write under a temporary name that is renamed when all is on disk; the shard's record.

        Sentences and documents without a token are dropped; None, and no shard, when nothing is left.

        Raises:
            WorkError: the disk is full, or writing fails otherwise.
        """
        tokens, sentences, documents, flags = self._encode(text)
        if not len(tokens):
            return None
        arrays = {"tokens": tokens, "sentences": sentences, "documents": documents}
        contents = {name: _npy(array) for name, array in arrays.items()}
        token_counts = np.bincount(tokens, minlength=len(self.tokenizer))
        record: dict[str, Any] = {
            "key": key,
            "name": folder.name,
            "num_documents": len(documents),
            "num_sentences": len(sentences),
            "num_tokens": len(tokens),
            "num_unknown": int(token_counts[self.tokenizer.unknown_id]),
            **flags,
            "sentence_lengths": length_histogram(lengths_of(sentences)),
            "document_lengths": length_histogram(lengths_of(documents[:, 1])),
            "bytes": {name: len(content) for name, content in contents.items()},
            "sha256": {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()},
        }
        record["record"] = _own_sum(record)
        temporary = folder.with_name(f".{folder.name}.{socket.gethostname()}.{uuid.uuid4().hex}.tmp")
        try:
            for name, content in contents.items():
                write_bytes(temporary / f"{name}.npy", content)
            write_json(temporary / SHARD_RECORD, record)
            _put(temporary, folder, key)
            sync_folder(folder.parent)
        except OSError as error:
            raise WorkError(
                f"{folder}: cannot be written: {error.strerror or error}. Finished shards are kept: the same "
                "command goes on from them"
            ) from None
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return record

    def _encode(
        self, text: ShardText
    ) -> tuple[NDArray[Any], NDArray[np.uint32], NDArray[np.uint32], dict[str, bool]]:
        """Tokens, sentence ends (in tokens), document ends (in sentences and tokens), and the flags of the record."""
        tokens, lengths, owners = [], [], []
        for sentences, documents in self._slabs(text.passages):
            ids, ends = self.encoder.encode(sentences)
            tokens.append(ids.astype(self.dtype))
            lengths.append(np.diff(ends, prepend=0))
            owners.append(np.asarray(documents, dtype=np.int64))
        length = np.concatenate(lengths) if lengths else np.empty(0, np.int64)
        owner = np.concatenate(owners)[length > 0] if owners else np.empty(0, np.int64)
        length = length[length > 0]
        num_pieces = -(-length // MAX_SENTENCE)
        ends = np.cumsum(length)
        # The pieces of a long sentence end every MAX_SENTENCE tokens, the last one where the sentence does.
        place = np.arange(int(num_pieces.sum())) - np.repeat(np.cumsum(num_pieces) - num_pieces, num_pieces)
        ends = np.minimum(
            np.repeat(ends - length, num_pieces) + (place + 1) * MAX_SENTENCE, np.repeat(ends, num_pieces)
        )
        owner = np.repeat(owner, num_pieces)
        last = np.flatnonzero(np.diff(owner, append=-1))
        num_documents = sum(passage.ends for passage in text.passages) + (not text.passages[-1].ends)
        return (
            np.concatenate(tokens) if tokens else np.empty(0, self.dtype),
            ends.astype(np.uint32),
            np.stack([last + 1, ends[last]], axis=1).astype(np.uint32),
            {
                "continues": bool(text.continues and len(owner) and owner[0] == 0),
                "open": bool(not text.passages[-1].ends and len(owner) and owner[-1] == num_documents - 1),
            },
        )

    def _slabs(self, passages: Sequence[Passage]) -> Iterator[tuple[list[str], list[int]]]:
        """Sentences in portions of about `_SLAB` characters, each with the number of its document."""
        sentences: list[str] = []
        owners: list[int] = []
        size = document = 0
        for passage in passages:
            for segment in passage.segments:
                new = split_sentences(segment, self.language) if passage.split else [segment]
                sentences += new
                owners += [document] * len(new)
                size += len(segment)
                if size > _SLAB:
                    yield sentences, owners
                    sentences, owners, size = [], [], 0
            document += passage.ends
        if sentences:
            yield sentences, owners


def _own_sum(record: dict[str, Any]) -> str:
    """SHA-256 of all else in a record."""
    rest = {name: value for name, value in record.items() if name != "record"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _put(temporary: Path, folder: Path, key: str) -> None:
    """Rename to the final name; where another worker of a cluster did so with the same shard, that one stays."""
    for _ in range(3):
        try:
            os.rename(temporary, folder)
            return
        except OSError:
            if kept_record(folder, key) is not None:
                return
            if not folder.exists():
                raise
            shutil.rmtree(folder, ignore_errors=True)
    os.rename(temporary, folder)


def length_histogram(lengths: NDArray[np.int64]) -> list[int]:
    """How many lengths fall into each bin; bin k holds those above 2^(k - 1) up to 2^k tokens."""
    bins = np.ceil(np.log2(np.maximum(lengths, 1))).astype(np.int64)
    counts = np.bincount(bins, minlength=NUM_LENGTH_BINS).tolist()
    while counts and not counts[-1]:
        counts.pop()
    return counts


def _npy(array: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()
