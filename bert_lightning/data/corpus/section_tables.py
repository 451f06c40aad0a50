"""The tables of a store: where its sections are, and how many chunks of any length their documents have.

STORE/sections.npy        one row per section
STORE/chunk_counts.bin    the SHA-256 of each row; then, for each length of `CHUNK_LENGTHS`, a row with the chunks of
                          each section, uint32

A run reads one row of the second table, so the time to start it depends on the number of sections, not of documents.
"""

import hashlib
import io
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from bert_lightning.data.corpus.sections import head_bytes
from bert_lightning.errors import InputError

SECTIONS = "sections.npy"
CHUNK_COUNTS = "chunk_counts.bin"
SECTION_ROW = np.dtype(
    [
        ("shard", "<u4"),
        ("num_documents", "<u4"),
        ("num_sentences", "<u4"),
        ("num_tokens", "<u4"),
        # documents of one token
        ("num_single", "<u4"),
        # whether the first document continues the last one of the section before
        ("joined", "<u4"),
        # the first byte of the section in its shard
        ("offset", "<u8"),
        # of the head of the section
        ("sha256", "u1", 32),
    ]
)
# The numbers of text tokens that fit into a sample, which also holds two or three special tokens. The samples have
# every length up to 1,024 tokens, and above that the multiples of 64.
CHUNK_LENGTHS = (
    *range(2, 1023),
    *(length - special for length in range(1024 + 64, 8192 + 1, 64) for special in (3, 2)),
)
_DIGEST_BYTES = hashlib.sha256().digest_size
# Columns of the table are turned into rows in portions of about this many bytes.
_PORTION = 1 << 26


def chunk_counts(document_lengths: NDArray[np.int64]) -> NDArray[np.uint32]:
    """Return for each length of `CHUNK_LENGTHS` the sum over documents of ceil(tokens / length).

    >>> chunk_counts(np.array([1, 4, 5]))[:3].tolist(), CHUNK_LENGTHS[:3]
    ([6, 5, 4], (2, 3, 4))
    """
    lengths, numbers = np.unique(document_lengths, return_counts=True)
    # Floor division of the negative rounds up.
    return np.array([-(np.floor_divide(-lengths, length) @ numbers) for length in CHUNK_LENGTHS], dtype="<u4")


class ChunkTable:
    """The chunk counts of a store, of which a row is read and verified at a time.

    Args:
        path: the file.
        num_sections: length of a row.
        sha256: SHA-256, in hexadecimal, of the digests at its start.
    """

    def __init__(self, path: Path, num_sections: int, sha256: str) -> None:
        self.path = path
        self.num_sections = num_sections
        self.sha256 = sha256

    @property
    def num_bytes(self) -> int:
        """The size of the file."""
        return len(CHUNK_LENGTHS) * (_DIGEST_BYTES + 4 * self.num_sections)

    def row(self, length: int) -> NDArray[np.int64] | None:
        """Return the chunks of each section, (sections,); None if the table does not have this length.

        Raises:
            InputError: the file is missing or damaged.
        """
        if length not in CHUNK_LENGTHS:
            return None
        number = CHUNK_LENGTHS.index(length)
        try:
            with open(self.path, "rb") as file:
                digests = file.read(len(CHUNK_LENGTHS) * _DIGEST_BYTES)
                file.seek(number * 4 * self.num_sections, io.SEEK_CUR)
                content = file.read(4 * self.num_sections)
        except OSError:
            raise self._damaged() from None
        digest = hashlib.sha256(content).digest()
        whole = hashlib.sha256(digests).hexdigest() == self.sha256
        if not whole or digest != digests[number * _DIGEST_BYTES : (number + 1) * _DIGEST_BYTES]:
            raise self._damaged()
        return np.frombuffer(content, "<u4").astype(np.int64)

    def verify(self) -> None:
        """Read all rows.

        Raises:
            InputError: the file is missing or damaged.
        """
        for length in CHUNK_LENGTHS:
            self.row(length)

    def _damaged(self) -> InputError:
        return InputError(
            f"{self.path} is missing or damaged. Run the command that made the store again: it keeps whole shards"
        )


def write_chunk_table(file: IO[bytes], by_section: IO[bytes], num_sections: int) -> str:
    """Write the table of chunk counts.

    Args:
        file: the file to write, which can be sought in.
        by_section: a file with the counts of one section after the other.
        num_sections: their number.

    Returns:
        The SHA-256 of the digests, in hexadecimal.
    """
    by_section.flush()
    columns: NDArray[np.uint32] = np.memmap(by_section, "<u4", "r", shape=(num_sections, len(CHUNK_LENGTHS)))
    digests = []
    file.seek(len(CHUNK_LENGTHS) * _DIGEST_BYTES)
    step = max(1, _PORTION // (4 * num_sections))
    for start in range(0, len(CHUNK_LENGTHS), step):
        rows = np.ascontiguousarray(columns[:, start : start + step].T)
        digests += [hashlib.sha256(row).digest() for row in rows]
        file.write(rows.tobytes())
    file.seek(0)
    file.write(b"".join(digests))
    return hashlib.sha256(b"".join(digests)).hexdigest()


def section_ends(rows: NDArray[np.void], token_bytes: int) -> NDArray[np.int64]:
    """Return for each section the index of the first byte after it in its shard, (sections,)."""
    documents, sentences, tokens = (
        rows[name].astype(np.int64) for name in ("num_documents", "num_sentences", "num_tokens")
    )
    return rows["offset"].astype(np.int64) + head_bytes(documents, sentences, tokens) + tokens * token_bytes
