"""Token stores: a corpus as token ids on disk.

STORE/manifest.json              what the store was made from, its counts, and the checksums of the tables; written
                                 last, so a store without one is unfinished
STORE/sections.npy               where each section is (`section_tables.py`)
STORE/chunk_counts.bin           how many samples of any length each section has (`section_tables.py`)
STORE/token_counts.npy           how often each vocabulary entry occurs
STORE/vocab.txt, ...             the tokenizer
STORE/shard-00000.tokens, ...    the tokens, up to 128 sections in each file (`shard_files.py`, `sections.py`)

Stores of the format before this one are read as they are (`earlier_format.py`).
"""

import io
import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bert_lightning.checkpoints.files import sha256
from bert_lightning.checkpoints.tokenizers.tokenizer_files import VOCABULARY
from bert_lightning.data.corpus.earlier_format import EARLIER_FORMAT, EarlierFiles
from bert_lightning.data.corpus.store_files import FORMAT, ReadableSection, ShardedFiles, StoreFiles
from bert_lightning.errors import InputError
from bert_lightning.text.wordpiece import WordPieceTokenizer, load_tokenizer

MANIFEST = "manifest.json"
TOKEN_COUNTS = "token_counts.npy"
_FORMATS: dict[int, Callable[..., StoreFiles]] = {FORMAT: ShardedFiles, EARLIER_FORMAT: EarlierFiles}


class TokenStore:
    """An opened token store.

    Opening reads the manifest and one table. What is read later is verified first. So damaged data is never used, and
    a large corpus opens quickly.

    A document longer than a section counts as several documents; `same_document` finds all of them.

    Attributes:
        path: the folder.
        files: the files, of either format.
        tokenizer: the tokenizer that the store was made with.
        fingerprint: SHA-256 that changes with any token or boundary.
        num_sections: sections in all shards.
        num_shards: files with tokens.
        num_documents: documents in all sections; a document in several sections counts once in each of them.
        num_tokens: tokens in all sections.
        section_tokens: tokens of each section, (sections,).
        num_bytes: bytes of all sections; None in the earlier format, whose samples are shuffled as a whole.

    Raises:
        InputError: there is no store, or it is unfinished or damaged; the message names the file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        manifest = read_manifest(self.path)
        try:
            self._open(manifest)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{self.path / MANIFEST}: damaged: {error!r}: run prepare again") from None

    def _open(self, manifest: dict[str, object]) -> None:
        number = manifest["format"]
        if not isinstance(number, int) or number not in _FORMATS:
            raise InputError(
                f"{self.path} is a token store of format {number}, but this version reads the formats "
                f"{' and '.join(map(str, sorted(_FORMATS)))}: run prepare again, with another folder as --output"
            )
        # Read vocab.txt, which the message below names: from the folder, tokenizer.json would be read instead.
        self.tokenizer: WordPieceTokenizer = load_tokenizer(self.path / VOCABULARY)
        recorded = manifest["tokenizer"]
        if not isinstance(recorded, dict):
            raise TypeError(f"tokenizer is {recorded}")
        if self.tokenizer.fingerprint != recorded["fingerprint"]:
            raise InputError(f"{self.path}: vocab.txt is not the vocabulary that this token store was made with")
        self.files = _FORMATS[number](self.path, manifest, self.tokenizer.fingerprint)
        self.fingerprint = self.files.fingerprint
        self.num_sections, self.num_shards = len(self.files.num_documents), self.files.num_shards
        self.section_tokens, self.num_bytes = self.files.num_tokens, self.files.num_bytes
        self._first_documents = np.concatenate(([0], np.cumsum(self.files.num_documents)))
        self.num_documents = int(self._first_documents[-1])
        self.num_tokens = int(self.section_tokens.sum())
        self.chunk_counts = lru_cache(self._chunk_counts)

    def section(self, number: int) -> ReadableSection:
        """Return one section.

        Raises:
            InputError: its file is damaged. In an earlier format, reading an array of the section raises it.
        """
        return self.files.section(number)

    def hold(self, num_bytes: int) -> None:
        """Keep at most about this many bytes of sections in memory, the ones used last."""
        self.files.hold(num_bytes)

    def _chunk_counts(self, length: int) -> NDArray[np.int64]:
        """Return for each section the sum over its documents of ceil(tokens / length), (sections,)."""
        counts = self.files.chunk_counts(length)
        if counts is not None:
            return counts
        lengths = (self.section(number).document_lengths() for number in range(self.num_sections))
        return np.array([int((-(-each // length)).sum()) for each in lengths], dtype=np.int64)

    def single_counts(self) -> NDArray[np.int64]:
        """Return the number of documents of one token in each section, (sections,)."""
        counts = self.files.single_counts()
        if counts is not None:
            return counts
        lengths = (self.section(number).document_lengths() for number in range(self.num_sections))
        return np.array([int((each == 1).sum()) for each in lengths], dtype=np.int64)

    def first_document(self, section: int) -> int:
        """Return the number of a section's first document; for the number of sections, that of all documents."""
        return int(self._first_documents[section])

    def section_of(self, document: int) -> int:
        """Return the section that holds a document."""
        return int(self._first_documents.searchsorted(document, side="right")) - 1

    def locate(self, document: int) -> tuple[ReadableSection, int, int, int]:
        """Find a document.

        Returns:
            The section of the document; the number of its first sentence in the section; the number after its last
            sentence; the index of its first token.
        """
        number = self.section_of(document)
        section, local = self.section(number), document - int(self._first_documents[number])
        first, start = section.documents[local - 1].tolist() if local else (0, 0)
        return section, first, int(section.documents[local, 0]), start

    def num_sentences(self, document: int) -> int:
        """Return the number of sentences in a document."""
        _, first, last, _ = self.locate(document)
        return last - first

    def tokens(self, document: int, start: int, stop: int) -> NDArray[np.unsignedinteger]:
        """Return tokens `start` to `stop` of a document, as a view that cannot be written to."""
        section, _, _, offset = self.locate(document)
        return section.read(offset + start, offset + stop)

    def same_document(self, document: int) -> tuple[int, int]:
        """Return the first and the last number of the documents that are one document in the text.

        They differ only if the document is in several sections.
        """
        joined, number = self.files.joined, self.section_of(document)
        first = last = document
        before, after = number, number + 1
        while first == self._first_documents[before] and joined[before]:
            before -= 1
            first -= 1
        while after < self.num_sections and last == self._first_documents[after] - 1 and joined[after]:
            after += 1
            last += 1
        return first, last

    def token_counts(self) -> NDArray[np.int64]:
        """Return how often each vocabulary entry occurs, (V,).

        Raises:
            InputError: the file is missing or damaged.
        """
        path = self.path / TOKEN_COUNTS
        if not path.is_file() or sha256(path) != self.files.token_counts_sha256:
            raise InputError(f"{path} is missing or damaged: run prepare again")
        counts: NDArray[np.int64] = np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
        return counts

    def verify(self) -> None:
        """Read every file and compare it with its checksum.

        Raises:
            InputError: a file is missing or damaged; the message names it.
        """
        self.files.verify()
        self.token_counts()


def read_manifest(folder: Path) -> dict[str, object]:
    """Read the manifest of a token store.

    Raises:
        InputError: there is no store, or it is unfinished, or the manifest is damaged.
    """
    path = folder / MANIFEST
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; `bert-lightning prepare` makes a token store")
    if not path.is_file():
        raise InputError(f"{folder} has no {MANIFEST}: it is not a token store, or prepare did not finish")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: damaged: {error}") from None
    keys = ("format", "tokenizer", "fingerprint")
    missing = [key for key in keys if key not in manifest] if isinstance(manifest, dict) else keys
    if missing or not isinstance(manifest, dict):
        raise InputError(f"{path}: damaged, or of another version: {', '.join(missing)} missing")
    return manifest
