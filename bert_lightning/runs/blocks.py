"""Blocks of inputs, which are sorted by length and computed together, in bounded memory."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

from bert_lightning.data.reading.tables import Row
from bert_lightning.tasks.inference import PREDICTION_BATCH_SIZE

# A block ends after this many inputs, or once its texts have this many characters.
_BLOCK = 32 * PREDICTION_BATCH_SIZE
_BLOCK_CHARACTERS = 1 << 20
T = TypeVar("T")


def without_warnings(rows: Iterator[Row]) -> Iterator[Row]:
    """Yield the rows of a file that was read before, without repeating the warnings about it."""
    readers = logging.getLogger("bert_lightning.data.reading")
    while True:
        level = readers.level
        readers.setLevel(logging.ERROR)
        try:
            row = next(rows, None)
        finally:
            readers.setLevel(level)
        if row is None:
            return
        yield row


def in_blocks(items: Iterable[T]) -> Iterator[list[T]]:
    """Yield the items in lists of about two thousand, which the caller sorts by length.

    A list ends earlier once it has a million characters, so that long texts do not fill the memory.
    """
    block: list[T] = []
    num_characters = 0
    for item in items:
        block.append(item)
        num_characters += _characters_of(item)
        if len(block) == _BLOCK or num_characters >= _BLOCK_CHARACTERS:
            yield block
            block, num_characters = [], 0
    if block:
        yield block


def _characters_of(value: object) -> int:
    """Return the number of characters of all texts in a value.

    >>> _characters_of(Row("a.tsv: line 1", {"tokens": ["a", "boat"], "label": 7}))
    5
    """
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Row):
        value = value.values
    if isinstance(value, Mapping):
        value = value.values()
    elif not isinstance(value, list | tuple):
        return 0
    return sum(map(_characters_of, value))
