"""Escaping of names from a user's data or configuration, for one line of plain text and for Markdown."""

import re
import unicodedata

# Control characters, lone surrogates, and the separators of lines and paragraphs.
_UNPRINTABLE = {"Cc", "Cs", "Zl", "Zp"}
# A backslash escapes any ASCII punctuation (CommonMark 0.31, section 2.4); GitHub reads `$` as mathematics.
# An underscore between letters needs no escape, and most names of metrics hold one.
_MARKDOWN = re.compile(r"[\\`*{}\[\]<>|~$&]|(?<!\w)#|(?<![^\W_])_|_(?![^\W_])|^[-+](?=\s)")
_BACKTICKS = re.compile("`+")


def printable(text: str) -> str:
    """Return the text on one line, with Python's escapes for line breaks, control characters and lone surrogates."""
    if text.isprintable():
        return text
    return "".join(
        character.encode("unicode_escape").decode() if unicodedata.category(character) in _UNPRINTABLE else character
        for character in text
    )


def shortened(text: str, longest: int) -> str:
    """Return the text, without its middle if it is longer than `longest` characters."""
    if len(text) <= longest:
        return text
    tail = longest // 3
    return f"{text[: longest - tail - 1]}…{text[len(text) - tail :]}"


def markdown(text: str) -> str:
    """Escape the text so that Markdown shows it unchanged, on one line and also in a table."""
    return _MARKDOWN.sub(lambda match: f"\\{match[0]}", printable(text))


def markdown_code(text: str, *, in_table: bool = False) -> str:
    """Return the text as a span of code, with a fence longer than any run of backticks in it."""
    text = printable(text)
    fence = "`" * (1 + max((len(run) for run in _BACKTICKS.findall(text)), default=0))
    # Markdown removes one blank on either side, which keeps backticks of the text apart from the fence.
    space = " " if text.startswith("`") or text.endswith("`") else ""
    if in_table:
        text = text.replace("|", "\\|")
    return f"{fence}{space}{text}{space}{fence}"


def markdown_block(text: str, language: str) -> str:
    """Return the text as a fenced block of code, with a fence longer than any run of backticks in it."""
    fence = "`" * max(3, 1 + max((len(run) for run in _BACKTICKS.findall(text)), default=0))
    return f"{fence}{language}\n{text}\n{fence}"
