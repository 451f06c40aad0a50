"""The writer of one shard of a token store: from text to arrays, complete or not at all."""

import hashlib
import io
import json
import os
import shutil
import socket
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from bert_lightning.checkpoints.files import sync_folder, write_bytes, write_json
from bert_lightning.checkpoints.tokenizers.tokenizer_files import Vocabulary
from bert_lightning.data.corpus.documents import Passage
from bert_lightning.data.corpus.shards import SHARD_RECORD, ShardRecord, lengths_of, shard_fault
from bert_lightning.errors import WorkError
from bert_lightning.text.encoding import CachingEncoder
from bert_lightning.text.sentences import split_sentences
from bert_lightning.text.wordpiece import WordPieceTokenizer

# A longer sentence is stored in pieces of this many tokens, so that a pair can start inside it.
MAX_SENTENCE = 512
# Text is encoded in portions of about this many characters.
_PORTION = 1 << 20
# Bins of a histogram of lengths; their upper ends are 1, 2, 4, ... tokens.
NUM_LENGTH_BINS = 33


class ShardText(NamedTuple):
    """The text of one shard."""

    number: int
    passages: list[Passage]
    continues: bool
    """true if the first passage continues a document of the previous shard"""


class Encoding(NamedTuple):
    """The settings with which text becomes tokens, as plain values that can be sent to other processes."""

    vocabulary: Vocabulary
    language: str
    settings_key: str
    """identifies everything that decides the tokens of a text"""


class _EncodedText(NamedTuple):
    """The content of a shard."""

    tokens: NDArray[np.unsignedinteger]
    """(tokens,)"""
    sentences: NDArray[np.uint32]
    """(sentences,) the end of each sentence in tokens"""
    documents: NDArray[np.uint32]
    """(documents, 2) the end of each document in sentences and in tokens"""
    continues: bool
    """true if the first document continues one of the previous shard"""
    open: bool
    """true if the last document may continue in the next shard"""


def shard_key(text: ShardText, encoding: Encoding) -> str:
    """Return the SHA-256 of the text of a shard and of everything that decides its tokens."""
    digest = hashlib.sha256(f"{encoding.settings_key} {text.continues}".encode())
    for passage in text.passages:
        # The lengths are included, so that different lists of segments never have the same bytes.
        digest.update(repr((passage.split, passage.ends, [len(s) for s in passage.segments])).encode())
        digest.update("".join(passage.segments).encode())
    return digest.hexdigest()


def kept_record(folder: Path, key: str) -> ShardRecord | None:
    """Return the record of a whole shard that an earlier call made from the same text; None if there is none."""
    try:
        record = cast(ShardRecord, json.loads((folder / SHARD_RECORD).read_text(encoding="utf-8")))
        whole = (
            record["key"] == key
            and _record_digest(record) == record["record"]
            and shard_fault(folder, record) is None
        )
    except (OSError, ValueError, TypeError, LookupError, AttributeError):
        return None
    return record if whole else None


class ShardWriter:
    """Writer of shards, which keeps its cache of encoded words from one shard to the next."""

    def __init__(self, tokenizer: WordPieceTokenizer, language: str) -> None:
        self.tokenizer = tokenizer
        self.language = language
        self.encoder = CachingEncoder(tokenizer)
        self.dtype = np.uint16 if len(tokenizer) <= 1 << 16 else np.uint32

    def write(self, text: ShardText, folder: Path, key: str) -> ShardRecord | None:
        """Encode the text of a shard and write it to `folder`.

        The shard is written under a temporary name and renamed once it is complete on disk. Sentences and documents
        without tokens are dropped.

        Returns:
            The shard's record; None if the text has no token, and then no shard is written.

        Raises:
            WorkError: the disk is full, or writing fails for another reason.
        """
        encoded = self._encode(text)
        if not len(encoded.tokens):
            return None
        arrays = {"tokens": encoded.tokens, "sentences": encoded.sentences, "documents": encoded.documents}
        contents = {name: _npy(array) for name, array in arrays.items()}
        token_counts = np.bincount(encoded.tokens, minlength=len(self.tokenizer))
        record: ShardRecord = {
            "key": key,
            "name": folder.name,
            "num_documents": len(encoded.documents),
            "num_sentences": len(encoded.sentences),
            "num_tokens": len(encoded.tokens),
            "num_unknown": int(token_counts[self.tokenizer.unknown_id]),
            "continues": encoded.continues,
            "open": encoded.open,
            "sentence_lengths": length_histogram(lengths_of(encoded.sentences)),
            "document_lengths": length_histogram(lengths_of(encoded.documents[:, 1])),
            "bytes": {name: len(content) for name, content in contents.items()},
            "sha256": {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()},
            "record": "",
        }
        record["record"] = _record_digest(record)
        temporary = folder.with_name(f".{folder.name}.{socket.gethostname()}.{uuid.uuid4().hex}.tmp")
        try:
            for name, content in contents.items():
                write_bytes(temporary / f"{name}.npy", content)
            write_json(temporary / SHARD_RECORD, record)
            _rename(temporary, folder, key)
            sync_folder(folder.parent)
        except OSError as error:
            raise WorkError(
                f"{folder}: cannot be written: {error.strerror or error}. Finished shards are kept, and the same "
                "command continues from them"
            ) from None
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return record

    def _encode(self, text: ShardText) -> _EncodedText:
        tokens, lengths, owners = [], [], []
        for sentences, documents in self._portions(text.passages):
            ids, ends = self.encoder.encode(sentences)
            tokens.append(ids.astype(self.dtype))
            lengths.append(np.diff(ends, prepend=0))
            owners.append(np.asarray(documents, dtype=np.int64))
        # Per sentence: its tokens, and the number of its document.
        length = np.concatenate(lengths) if lengths else np.empty(0, np.int64)
        owner = np.concatenate(owners)[length > 0] if owners else np.empty(0, np.int64)
        length = length[length > 0]
        num_pieces = -(-length // MAX_SENTENCE)
        ends = np.cumsum(length)
        # The pieces of a long sentence end every MAX_SENTENCE tokens, and the last one at the end of the sentence.
        piece = np.arange(int(num_pieces.sum())) - np.repeat(np.cumsum(num_pieces) - num_pieces, num_pieces)
        ends = np.minimum(
            np.repeat(ends - length, num_pieces) + (piece + 1) * MAX_SENTENCE, np.repeat(ends, num_pieces)
        )
        owner = np.repeat(owner, num_pieces)
        last = np.flatnonzero(np.diff(owner, append=-1))
        num_documents = sum(passage.ends for passage in text.passages) + (not text.passages[-1].ends)
        return _EncodedText(
            np.concatenate(tokens) if tokens else np.empty(0, self.dtype),
            ends.astype(np.uint32),
            np.stack([last + 1, ends[last]], axis=1).astype(np.uint32),
            continues=bool(text.continues and len(owner) and owner[0] == 0),
            open=bool(not text.passages[-1].ends and len(owner) and owner[-1] == num_documents - 1),
        )

    def _portions(self, passages: Sequence[Passage]) -> Iterator[tuple[list[str], list[int]]]:
        """Yield sentences in portions of about `_PORTION` characters, and the number of each one's document."""
        sentences: list[str] = []
        owners: list[int] = []
        size = document = 0
        for passage in passages:
            for segment in passage.segments:
                new = split_sentences(segment, self.language) if passage.split else [segment]
                sentences += new
                owners += [document] * len(new)
                size += len(segment)
                if size > _PORTION:
                    yield sentences, owners
                    sentences, owners, size = [], [], 0
            document += passage.ends
        if sentences:
            yield sentences, owners


def _record_digest(record: ShardRecord) -> str:
    """Return the SHA-256 of everything else in a record."""
    rest = {name: value for name, value in record.items() if name != "record"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _rename(temporary: Path, folder: Path, key: str) -> None:
    """Rename a shard to its final name, unless another worker of a cluster has written the same shard already."""
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
    """Return how many lengths fall into each bin; bin k counts those above 2^(k - 1) and up to 2^k tokens.

    >>> length_histogram(np.array([1, 3, 4, 5]))
    [1, 0, 2, 1]
    """
    bins = np.ceil(np.log2(np.maximum(lengths, 1))).astype(np.int64)
    counts = np.bincount(bins, minlength=NUM_LENGTH_BINS).tolist()
    while counts and not counts[-1]:
        counts.pop()
    return counts


def _npy(array: NDArray[np.generic]) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()
