"""Text to word pieces as the original Python code reads it (`google-research/bert`, `tokenization.py`).

It differs from transformers' tokenizer, the default, in words of 101 to 200 characters, in special tokens that are
written in the text (here they are text), in the Greek final sigma (here lower-cased by its place in the word), in
line and paragraph separators (here they end a word) and in unassigned and private-use characters (here they stay).
"""

import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache

from bert_lightning.text.wordpiece import UNKNOWN

# A longer word becomes [UNK]; `tokenization.py: WordpieceTokenizer`.
MAX_CHARACTERS_PER_WORD = 200
# Distinct stretches between spaces whose pieces are remembered.
_NUM_REMEMBERED = 1 << 18
# CJK ideographs; `tokenization.py: _is_chinese_char`, after the Unicode blocks of that name.
_IDEOGRAPHS = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)


class OriginalEncoding:
    """Text -> word pieces, equal to `FullTokenizer.tokenize` of the original code.

    Args:
        entries: the vocabulary in id order.
        lowercase: lower-case and strip accents first.
    """

    def __init__(self, entries: Sequence[str], lowercase: bool) -> None:
        self.entries = frozenset(entries)
        self.lowercase = lowercase
        # Nothing reaches over a space, so each stretch between two of them is read once.
        self._pieces = lru_cache(_NUM_REMEMBERED)(self._pieces_of)

    def tokenize(self, text: str) -> list[str]:
        """Word pieces of a text, without [CLS] and [SEP]."""
        return [piece for stretch in text.split(" ") for piece in self._pieces(stretch)]

    def _pieces_of(self, text: str) -> tuple[str, ...]:
        return tuple(piece for word in self._words(text) for piece in self._word_pieces(word))

    def _words(self, text: str) -> Iterator[str]:
        for word in "".join(map(_cleaned, text)).split():
            if self.lowercase:
                decomposed = unicodedata.normalize("NFD", word.lower())
                word = "".join(c for c in decomposed if unicodedata.category(c) != "Mn")
            yield from "".join(f" {c} " if _is_punctuation(c) else c for c in word).split()

    def _word_pieces(self, word: str) -> list[str]:
        """Greedy, longest match first; one [UNK] where that does not cover the word."""
        if len(word) > MAX_CHARACTERS_PER_WORD:
            return [UNKNOWN]
        pieces: list[str] = []
        start = 0
        while start < len(word):
            prefix = "##" if start else ""
            ends = range(len(word), start, -1)
            end = next((end for end in ends if prefix + word[start:end] in self.entries), None)
            if end is None:
                return [UNKNOWN]
            pieces.append(prefix + word[start:end])
            start = end
        return pieces


@lru_cache(1 << 16)
def _cleaned(character: str) -> str:
    """The character, a space in its place, spaces around it, or nothing; `_clean_text`, `_tokenize_chinese_chars`."""
    code, category = ord(character), unicodedata.category(character)
    if character in " \t\n\r" or category == "Zs":
        return " "
    if code in (0, 0xFFFD) or category in ("Cc", "Cf"):
        return ""
    return f" {character} " if any(low <= code <= high for low, high in _IDEOGRAPHS) else character


@lru_cache(1 << 16)
def _is_punctuation(character: str) -> bool:
    """Every ASCII character that is neither letter, digit nor space counts, such as $ and ^; `_is_punctuation`."""
    code = ord(character)
    signs = 33 <= code <= 47 or 58 <= code <= 64 or 91 <= code <= 96 or 123 <= code <= 126
    return signs or unicodedata.category(character).startswith("P")
