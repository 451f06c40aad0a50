"""The writer of one section: from text to arrays, and to a file that is complete or does not exist."""

import hashlib
import os
import socket
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bert_lightning.checkpoints.files import sync_folder
from bert_lightning.checkpoints.tokenizers.tokenizer_files import Vocabulary
from bert_lightning.data.corpus.documents import Passage
from bert_lightning.data.corpus.section_tables import chunk_counts
from bert_lightning.data.corpus.sections import SectionArrays, SectionRecord, lengths_of, section_bytes
from bert_lightning.data.corpus.shard_files import write_shard
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


class SectionText(NamedTuple):
    """The text of one section."""

    number: int
    passages: list[Passage]
    continues: bool
    """true if the first passage continues a document of the previous text"""


class Encoding(NamedTuple):
    """The settings with which text becomes tokens, as plain values that can be sent to other processes."""

    vocabulary: Vocabulary
    language: str
    settings_key: str
    """identifies everything that decides the tokens of a text"""


class WrittenSection(NamedTuple):
    """A section that is in a file, with what the tables of its store need."""

    record: SectionRecord
    token_bytes: int
    """bytes of a token"""
    chunk_counts: NDArray[np.uint32]
    """for each length of `CHUNK_LENGTHS` the chunks of its documents"""
    token_counts: NDArray[np.int64]
    """(V,) how often each vocabulary entry occurs"""


class _Extent(NamedTuple):
    """Whether the first and the last document of a section are parts of longer ones."""

    continues: bool
    """true if the first document continues one of the previous text"""
    open: bool
    """true if the last document may continue in the next text"""


def section_key(text: SectionText, encoding: Encoding) -> str:
    """Return the SHA-256 of the text of a section and of everything that decides its tokens."""
    digest = hashlib.sha256(f"{encoding.settings_key} {text.continues}".encode())
    for passage in text.passages:
        # The lengths are included, so that different lists of segments never have the same bytes.
        digest.update(repr((passage.split, passage.ends, [len(s) for s in passage.segments])).encode())
        digest.update("".join(passage.segments).encode())
    return digest.hexdigest()


class SectionWriter:
    """Writer of sections, which keeps its cache of encoded words from one section to the next."""

    def __init__(self, tokenizer: WordPieceTokenizer, language: str) -> None:
        self.tokenizer = tokenizer
        self.language = language
        self.encoder = CachingEncoder(tokenizer)
        self.dtype = np.uint16 if len(tokenizer) <= 1 << 16 else np.uint32

    def write(self, text: SectionText, path: Path, key: str) -> WrittenSection | None:
        """Encode the text of a section and write it to a file.

        Sentences and documents without tokens are dropped.

        Returns:
            The section; None if the text has no token, and then no file is written.

        Raises:
            WorkError: the disk is full, or writing fails for another reason.
        """
        arrays, extent = self._encode(text)
        if not len(arrays.tokens):
            return None
        return write_section(
            path,
            arrays,
            len(self.tokenizer),
            self.tokenizer.unknown_id,
            key=key,
            number=text.number,
            continues=extent.continues,
            open=extent.open,
        )

    def _encode(self, text: SectionText) -> tuple[SectionArrays, _Extent]:
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
        arrays = SectionArrays(
            np.concatenate(tokens) if tokens else np.empty(0, self.dtype),
            ends.astype(np.uint32),
            np.stack([last + 1, ends[last]], axis=1).astype(np.uint32),
        )
        return arrays, _Extent(
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


def write_section(
    path: Path,
    arrays: SectionArrays,
    vocab_size: int,
    unknown_id: int,
    *,
    key: str,
    number: int,
    continues: bool,
    open: bool,
) -> WrittenSection:
    """Write a section to a file of its own, and describe it.

    Args:
        path: the file. It is written under another name, and renamed once it is complete on disk.
        arrays: the content, with at least one token.
        vocab_size: number of vocabulary entries.
        unknown_id: the entry that stands for unknown words.
        key: SHA-256 of the text and of the settings that decide its tokens.
        number: the number of the text.
        continues: whether the first document continues one of the previous text.
        open: whether the last document may continue in the next text.

    Raises:
        WorkError: the disk is full, or writing fails for another reason.
    """
    head, tokens = section_bytes(arrays)
    sentence_lengths, document_lengths = lengths_of(arrays.sentences), lengths_of(arrays.documents[:, 1])
    token_counts = np.bincount(arrays.tokens, minlength=vocab_size)
    record: SectionRecord = {
        "key": key,
        "number": number,
        "num_documents": len(arrays.documents),
        "num_sentences": len(arrays.sentences),
        "num_tokens": len(arrays.tokens),
        "num_single": int((document_lengths == 1).sum()),
        "num_unknown": int(token_counts[unknown_id]),
        "continues": continues,
        "open": open,
        "sentence_lengths": length_histogram(sentence_lengths),
        "document_lengths": length_histogram(document_lengths),
        "sha256": hashlib.sha256(head).hexdigest(),
    }
    token_bytes = arrays.tokens.itemsize
    # Two workers of a cluster may write the same section: one that seemed dead, and the one that took over.
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{uuid.uuid4().hex}.tmp")
    try:
        write_shard(temporary, token_bytes, [record], [lambda file: file.write(head + tokens)])
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise WorkError(
            f"{path}: cannot be written: {error.strerror or error}. Finished sections are kept, and the same command "
            "continues from them"
        ) from None
    return WrittenSection(record, token_bytes, chunk_counts(document_lengths), token_counts)


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
