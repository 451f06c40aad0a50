"""Text to word pieces exactly as in the original Python code (`google-research/bert`, `tokenization.py`).

By default, text is encoded as in transformers (`wordpiece.py`). The original code differs in five points:

- words of 101 to 200 characters are split, not replaced by [UNK];
- special tokens that are written in the text are treated as plain text;
- the Greek final sigma is lower-cased by its position in the word;
- line and paragraph separators end a word;
- unassigned and private-use characters are kept.
"""

import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache

from bert_lightning.text.wordpiece import UNKNOWN

# Longer words become [UNK]; `tokenization.py: WordpieceTokenizer`.
MAX_CHARACTERS_PER_WORD = 200
# Number of distinct chunks between spaces whose pieces are cached.
_CACHE_SIZE = 1 << 18
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
    """Tokenizer whose word pieces equal those of `FullTokenizer.tokenize` in the original code.

    Args:
        entries: the vocabulary in id order.
        lowercase: lower-case and strip accents first.

    >>> OriginalEncoding(["[UNK]", "un", "##able", "!"], lowercase=True).tokenize("Unable! Able")
    ['un', '##able', '!', '[UNK]']
    """

    def __init__(self, entries: Sequence[str], lowercase: bool) -> None:
        self.entries = frozenset(entries)
        self.lowercase = lowercase
        # No rule crosses a space, so each distinct chunk between two spaces is split only once.
        self._pieces = lru_cache(_CACHE_SIZE)(self._pieces_of)

    def tokenize(self, text: str) -> list[str]:
        """Return the word pieces of a text, without [CLS] and [SEP]."""
        return [piece for chunk in text.split(" ") for piece in self._pieces(chunk)]

    def _pieces_of(self, text: str) -> tuple[str, ...]:
        return tuple(piece for word in self._words(text) for piece in self._word_pieces(word))

    def _words(self, text: str) -> Iterator[str]:
        for word in "".join(map(_clean, text)).split():
            if self.lowercase:
                decomposed = unicodedata.normalize("NFD", word.lower())
                word = "".join(c for c in decomposed if unicodedata.category(c) != "Mn")
            yield from "".join(f" {c} " if _is_punctuation(c) else c for c in word).split()

    def _word_pieces(self, word: str) -> list[str]:
        """Split greedily, longest match first; return one [UNK] if that does not cover the word."""
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
def _clean(character: str) -> str:
    """Return a character as the tokenizer reads it: white space as one space, a control character as nothing.

    An ideograph gets a space on each side. Every other character stays as it is.

    The original is `tokenization.py: _clean_text, _tokenize_chinese_chars`.
    """
    code, category = ord(character), unicodedata.category(character)
    if character in " \t\n\r" or category == "Zs":
        return " "
    if code in (0, 0xFFFD) or category in ("Cc", "Cf"):
        return ""
    return f" {character} " if any(low <= code <= high for low, high in _IDEOGRAPHS) else character


@lru_cache(1 << 16)
def _is_punctuation(character: str) -> bool:
    """Return whether a character is punctuation or an ASCII symbol such as $; `tokenization.py: _is_punctuation`."""
    code = ord(character)
    signs = 33 <= code <= 47 or 58 <= code <= 64 or 91 <= code <= 96 or 123 <= code <= 126
    return signs or unicodedata.category(character).startswith("P")
