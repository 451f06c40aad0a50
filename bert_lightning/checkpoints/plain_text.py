"""Names from a user's data or configuration, as plain text of one line and in Markdown."""

import re
import unicodedata

# Control characters, lone surrogates, and the separators of lines and paragraphs.
_UNPRINTABLE = {"Cc", "Cs", "Zl", "Zp"}
# Any ASCII punctuation may stand after a backslash (CommonMark 0.31, section 2.4); GitHub reads `$` as mathematics.
# An underscore between letters is left as it is, since most names of metrics hold one.
_MARKDOWN = re.compile(r"[\\`*{}\[\]<>|~$&]|(?<!\w)#|(?<![^\W_])_|_(?![^\W_])|^[-+](?=\s)")
_BACKTICKS = re.compile("`+")


def printable(text: str) -> str:
    """The text on one line: line breaks, control characters and lone surrogates are written as in Python."""
    if text.isprintable():
        return text
    return "".join(
        character.encode("unicode_escape").decode() if unicodedata.category(character) in _UNPRINTABLE else character
        for character in text
    )


def shortened(text: str, longest: int) -> str:
    """The text, without its middle where it is longer than `longest` characters."""
    if len(text) <= longest:
        return text
    tail = longest // 3
    return f"{text[: longest - tail - 1]}…{text[len(text) - tail :]}"


def markdown(text: str) -> str:
    """The text so that Markdown shows it as it is, on one line and also in a table."""
    return _MARKDOWN.sub(lambda match: f"\\{match[0]}", printable(text))


def markdown_code(text: str, *, in_table: bool = False) -> str:
    """A span of code with the text, whose fence is longer than any run of backticks inside."""
    text = printable(text)
    fence = "`" * (1 + max((len(run) for run in _BACKTICKS.findall(text)), default=0))
    # A blank on both sides is not part of the code, and keeps it apart from the fence.
    space = " " if text.startswith("`") or text.endswith("`") else ""
    if in_table:
        text = text.replace("|", "\\|")
    return f"{fence}{space}{text}{space}{fence}"


def markdown_block(text: str, language: str) -> str:
    """A fenced block of code, whose fence is longer than any run of backticks inside."""
    fence = "`" * max(3, 1 + max((len(run) for run in _BACKTICKS.findall(text)), default=0))
    return f"{fence}{language}\n{text}\n{fence}"
