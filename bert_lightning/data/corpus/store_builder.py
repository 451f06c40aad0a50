"""From sections to a store: shards of many sections, the tables, and, last, the manifest."""

import hashlib
import io
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bert_lightning.checkpoints.files import write_atomically, write_bytes, write_json
from bert_lightning.data.corpus.earlier_format import ShardRecord
from bert_lightning.data.corpus.section_tables import CHUNK_COUNTS, SECTION_ROW, SECTIONS, write_chunk_table
from bert_lightning.data.corpus.section_writer import WrittenSection
from bert_lightning.data.corpus.sections import SectionPlace, SectionRecord
from bert_lightning.data.corpus.shard_files import (
    PlacedSection,
    copied,
    read_shard,
    shard_name,
    shard_of,
    write_shard,
)
from bert_lightning.data.corpus.store_files import FORMAT, store_fingerprint
from bert_lightning.data.corpus.token_store import MANIFEST, TOKEN_COUNTS
from bert_lightning.errors import WorkError
from bert_lightning.text.wordpiece import WordPieceTokenizer


class StoreTotals:
    """Sums over all sections of a store.

    Attributes:
        num_shards: files with tokens.
        num_sections: sections.
        num_documents: documents; one in several sections counts once.
        num_sentences: sentences.
        num_tokens: tokens.
        num_unknown: tokens that are [UNK].
        sentence_lengths: histogram of sentence lengths in tokens; bin k counts those above 2^(k - 1) and up to 2^k.
        document_lengths: the same for documents.
        token_counts: (V,) how often each vocabulary entry occurs.
    """

    def __init__(self, vocab_size: int) -> None:
        self.num_shards = self.num_sections = 0
        self.num_documents = self.num_sentences = self.num_tokens = self.num_unknown = 0
        self.sentence_lengths: list[int] = []
        self.document_lengths: list[int] = []
        self.token_counts = np.zeros(vocab_size, dtype=np.int64)

    def add(self, record: SectionRecord | ShardRecord, joined: bool) -> None:
        """Add a section; if it is `joined`, its first document was counted with the section before."""
        self.num_sections += 1
        self.num_documents += record["num_documents"] - joined
        self.num_sentences += record["num_sentences"]
        self.num_tokens += record["num_tokens"]
        self.num_unknown += record["num_unknown"]
        self.sentence_lengths = _added(self.sentence_lengths, record["sentence_lengths"])
        self.document_lengths = _added(self.document_lengths, record["document_lengths"])


class _Waiting(NamedTuple):
    """A section that waits for its shard to be complete."""

    section: WrittenSection
    place: SectionPlace
    created: bool
    """whether this call has made it"""


class StoreBuilder:
    """The builder of a store from its sections, which arrive in order.

    A shard is written as soon as all of its sections are there, and their own files are then removed. Memory holds
    one row per section; the chunk counts wait in a file without a name.

    Args:
        output: folder of the store.
        vocab_size: number of vocabulary entries.

    Attributes:
        totals: sums over the sections that are in shards.
        num_added: sections so far.
        created: files of this call that hold nothing of an earlier one.
        shards: names of the shards.
    """

    def __init__(self, output: Path, vocab_size: int) -> None:
        self.output = output
        self.totals = StoreTotals(vocab_size)
        self.num_added = 0
        self.created: set[Path] = set()
        self.shards: set[str] = set()
        self._waiting: list[_Waiting] = []
        self._rows = bytearray()
        try:
            self._chunk_counts = tempfile.TemporaryFile(dir=output)  # noqa: SIM115 - `close` closes it
        except OSError as error:
            raise _cannot_write(output, error) from None
        self._last: SectionRecord | None = None
        self._token_bytes = 0

    def close(self) -> None:
        """Close the file of chunk counts."""
        self._chunk_counts.close()

    def add(self, section: WrittenSection, place: SectionPlace, created: bool) -> None:
        """Add the next section.

        Args:
            section: the section.
            place: where it is: in a shard, or in a file of its own.
            created: whether this call has made it.

        Raises:
            WorkError: the shard before cannot be written.
        """
        if self._waiting and _shard_of(self._waiting[0].section) != _shard_of(section):
            self._write_shard()
        self._waiting.append(_Waiting(section, place, created))
        self.num_added += 1
        if created:
            self.created.add(place.path)

    def finish(self, tokenizer: WordPieceTokenizer, settings: object) -> None:
        """Write the last shard, the tables and the manifest.

        Raises:
            WorkError: the disk is full, or writing fails for another reason.
        """
        if self._waiting:
            self._write_shard()
        try:
            tokenizer.save(self.output)
            token_counts = self._write_array(TOKEN_COUNTS, self.totals.token_counts)
            sections = self._write_array(SECTIONS, np.frombuffer(bytes(self._rows), SECTION_ROW))
            chunk_counts = self._write_chunk_counts()
            totals = self.totals
            manifest = {
                "format": FORMAT,
                "settings": settings,
                "tokenizer": {"fingerprint": tokenizer.fingerprint, "vocab_size": len(tokenizer)},
                "token_bytes": self._token_bytes,
                "num_documents": totals.num_documents,
                "num_sentences": totals.num_sentences,
                "num_tokens": totals.num_tokens,
                "num_unknown": totals.num_unknown,
                "num_sections": totals.num_sections,
                "num_shards": totals.num_shards,
                "token_counts_sha256": token_counts,
                "sections_sha256": sections,
                "chunk_counts_sha256": chunk_counts,
                "fingerprint": store_fingerprint(
                    tokenizer.fingerprint, self._token_bytes, sections, chunk_counts, token_counts
                ),
            }
            write_json(self.output / MANIFEST, manifest)
        except OSError as error:
            raise _cannot_write(self.output, error) from None

    def _write_shard(self) -> None:
        """Write the shard of the sections that wait, unless it is there, and remove their own files."""
        waiting, self._waiting = self._waiting, []
        number = _shard_of(waiting[0].section)
        path = self.output / shard_name(number)
        records = [each.section.record for each in waiting]
        self._token_bytes = waiting[0].section.token_bytes
        # A section that was damaged in the shard has been made again, with the same record.
        kept = all(each.place.path == path for each in waiting)
        if not kept or [placed.record for placed in read_shard(path)] != records:
            try:
                write_shard(path, self._token_bytes, records, [copied(each.place) for each in waiting])
            except FileNotFoundError as error:
                raise WorkError(
                    f"{error.filename} is gone, perhaps because another prepare works in this folder; the same "
                    "command continues"
                ) from None
            except OSError as error:
                raise _cannot_write(path, error) from None
            if all(each.created for each in waiting):
                self.created.add(path)
        for each in waiting:
            if each.place.path != path:
                each.place.path.unlink(missing_ok=True)
                self.created.discard(each.place.path)
        self.shards.add(path.name)
        self.totals.num_shards += 1
        for each, placed in zip(waiting, read_shard(path), strict=True):
            self._add_row(number, each.section, placed)

    def _add_row(self, shard: int, section: WrittenSection, placed: PlacedSection) -> None:
        record = section.record
        joined = self._last is not None and self._last["open"] and record["continues"]
        row = np.zeros((), SECTION_ROW)
        for name in ("num_documents", "num_sentences", "num_tokens", "num_single"):
            row[name] = record[name]
        row["shard"], row["offset"], row["joined"] = shard, placed.place.offset, joined
        row["sha256"] = np.frombuffer(placed.place.sha256, np.uint8)
        self._rows += row.tobytes()
        self._chunk_counts.write(section.chunk_counts.tobytes())
        self.totals.add(record, joined)
        self.totals.token_counts += section.token_counts
        self._last = record

    def _write_array(self, name: str, array: np.ndarray[tuple[int], np.dtype[np.generic]]) -> str:
        """Write an array, and return the SHA-256 of its file."""
        content = io.BytesIO()
        np.save(content, array, allow_pickle=False)
        write_bytes(self.output / name, content.getvalue())
        return hashlib.sha256(content.getvalue()).hexdigest()

    def _write_chunk_counts(self) -> str:
        digests: list[str] = []
        write_atomically(
            self.output / CHUNK_COUNTS,
            lambda file: digests.append(write_chunk_table(file, self._chunk_counts, self.totals.num_sections)),
        )
        return digests[0]


def _shard_of(section: WrittenSection) -> int:
    return shard_of(section.record["number"])


def _cannot_write(path: Path, error: OSError) -> WorkError:
    return WorkError(f"{path}: cannot be written: {error.strerror or error}. Finished sections are kept")


def _added(first: list[int], second: list[int]) -> list[int]:
    """Add histograms of different numbers of bins.

    >>> _added([1, 2], [0, 1, 5])
    [1, 3, 5]
    """
    longer, shorter = sorted((first, second), key=len, reverse=True)
    return [count + (shorter[bin] if bin < len(shorter) else 0) for bin, count in enumerate(longer)]
