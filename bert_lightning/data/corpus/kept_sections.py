"""Whole sections of an earlier preparation, which the next one keeps."""

from pathlib import Path

import numpy as np

from bert_lightning.data.corpus.section_tables import chunk_counts
from bert_lightning.data.corpus.section_writer import WrittenSection
from bert_lightning.data.corpus.sections import Section, SectionPlace
from bert_lightning.data.corpus.shard_files import PlacedSection, read_shard, section_name, shard_name, shard_of
from bert_lightning.errors import InputError


class KeptSections:
    """The sections of a folder by the number of their text, each verified as a whole before it is returned.

    Args:
        output: folder of the token store.
        vocab_size: number of vocabulary entries.
    """

    def __init__(self, output: Path, vocab_size: int) -> None:
        self.output = output
        self.vocab_size = vocab_size
        # The sections of the shard that was read last: they are asked for in order.
        self._shard = -1
        self._sections: dict[int, PlacedSection] = {}

    def find(self, number: int, key: str) -> tuple[WrittenSection, SectionPlace] | None:
        """Return the section with a number and its place, if it is whole and was made with this key; else None."""
        if self._shard != shard_of(number):
            self._shard = shard_of(number)
            self._sections = _sections_of(self.output / shard_name(self._shard))
        in_shard = self._sections.get(number)
        own = in_shard or _sections_of(self.output / section_name(number)).get(number)
        if own is None or own.record["key"] != key:
            return None
        section = _whole(own, self.vocab_size)
        return (section, own.place) if section is not None else None


def _sections_of(path: Path) -> dict[int, PlacedSection]:
    """Return the sections of a file by their number; none if it is missing or damaged."""
    try:
        return {placed.record["number"]: placed for placed in read_shard(path)}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}


def _whole(placed: PlacedSection, vocab_size: int) -> WrittenSection | None:
    """Read all of a section, and describe it as its writer did; None if it is damaged."""
    try:
        section = Section(placed.place)
        tokens = section.read(0, section.num_tokens)
    except InputError:
        return None
    counts = np.bincount(tokens, minlength=vocab_size)
    return WrittenSection(placed.record, placed.place.token_bytes, chunk_counts(section.document_lengths()), counts)
