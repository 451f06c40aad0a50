"""Escaping of text so that LaTeX prints it unchanged, with every engine and without packages."""

import re
import unicodedata

from bert_lightning.checkpoints.plain_text import printable

# Brackets and stars are escaped because `\\` and `\midrule` would take one that follows them as an argument.
_ESCAPES = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    "|": r"$|$",
    '"': "''",
    "`": r"\textasciigrave{}",
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
    "±": r"$\pm$",
    "†": r"$^{\dagger}$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "×": r"$\times$",
    "−": r"$-$",
    "–": "--",
    "—": "---",
    "…": r"\ldots{}",
    "’": "'",
    "‘": "`",
    "“": "``",
    "”": "''",
    "ß": r"\ss{}",
    "æ": r"\ae{}",
    "Æ": r"\AE{}",
    "œ": r"\oe{}",
    "Œ": r"\OE{}",
    "ø": r"\o{}",
    "Ø": r"\O{}",
    "ł": r"\l{}",
    "Ł": r"\L{}",
    "ı": r"\i{}",
}
_CEDILLA = "\u0327"
# Combining character -> LaTeX's accent.
_ACCENTS = {
    "\u0300": "`",
    "\u0301": "'",
    "\u0302": "^",
    "\u0303": "~",
    "\u0308": '"',
    "\u030a": "r",
    _CEDILLA: "c",
    "\u030c": "v",
    "\u0304": "=",
    "\u0306": "u",
    "\u0307": ".",
    "\u030b": "H",
}
# A line may break after these characters of a long name.
_BREAKS = "=._/,-"
_LONGEST_WORD = 15
_WORDS = re.compile(r"(\s+)")
_MINUS = re.compile(r"-(?=[\d.])")


def latex(text: str, *, breakable: bool = False) -> str:
    r"""Escape text so that LaTeX prints it unchanged. The result is a single line of source.

    A character that the standard fonts lack is printed as its code point, such as [U+65E5].

    Args:
        text: any text.
        breakable: whether lines may end within long words, after punctuation.

    >>> latex("50 % of data_1 [é]")
    "50 \\% of data\\_1 {[}\\'{e}{]}"
    """
    return "".join(_word(word, breakable and len(word) > _LONGEST_WORD) for word in _WORDS.split(printable(text)))


def latex_number(text: str) -> str:
    r"""Escape numbers, with minus signs and ± in mathematical mode.

    >>> latex_number("-0.5 ± 0.1")
    '$-$0.5 $\\pm$ 0.1'
    """
    return "$-$".join(latex(part) for part in _MINUS.split(text))


def comment(text: str) -> str:
    """Return text as a LaTeX comment of one line."""
    return f"% {printable(text)}"


def _word(word: str, breakable: bool) -> str:
    escaped = [_character(each) + (r"\allowbreak{}" if breakable and each in _BREAKS else "") for each in word]
    # LaTeX would print two hyphens as a dash.
    return re.sub(r"-(?=-)", "-{}", "".join(escaped))


def _character(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    if character.isascii():
        return character
    if character.isspace():
        return " "
    decomposed = unicodedata.normalize("NFD", character)
    base, marks = decomposed[0], decomposed[1:]
    if base.isascii() and marks in _ACCENTS:
        # An accent above i or j replaces the dot.
        letter = f"\\{base}" if base in "ij" and marks != _CEDILLA else base
        return f"\\{_ACCENTS[marks]}{{{letter}}}"
    return f"{{[}}U+{ord(character):04X}{{]}}"
