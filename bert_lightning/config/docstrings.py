"""Descriptions of settings, read from the docstrings of their dataclasses."""

import dataclasses
import inspect
import re
import textwrap

_ATTRIBUTES = "Attributes:"
# A full stop before a capital letter or a span of code ends a sentence; those of "et al. 2017" and "2.5" do not.
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z`])")
_EXAMPLE = re.compile(r"^\s*>>> ", re.MULTILINE)


def first_sentence(text: str) -> str:
    """Return the first sentence of a description.

    >>> first_sentence("Adam; Kingma et al. 2015. It has moments.")
    'Adam; Kingma et al. 2015.'
    """
    return _SENTENCE_END.split(text, maxsplit=1)[0]


def capitalised(text: str) -> str:
    """Capitalise a description, unless it begins with a symbol, a name of a value, or code.

    >>> capitalised("steps between validations"), capitalised("d; 1 for one rate"), capitalised("eager, sdpa")
    ('Steps between validations', 'd; 1 for one rate', 'eager, sdpa')
    """
    word = text.split(" ", 1)[0]
    is_word = word.isalpha() and word.islower() and (len(word) > 1 or word == "a")
    return text[:1].upper() + text[1:] if is_word else text


def paragraphs_of(cls: type) -> list[str]:
    """Return the paragraphs of a class's docstring before its attributes and examples, each in one line."""
    text = _docstring(cls).split(f"\n{_ATTRIBUTES}")[0]
    text = _EXAMPLE.split(text)[0]
    return [" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", text) if paragraph.strip()]


def descriptions_of(cls: type) -> dict[str, str]:
    """Return the description of each field that the `Attributes:` of a dataclass or of its bases describe.

    >>> from bert_lightning.optim.freezing import FreezeSettings
    >>> descriptions_of(FreezeSettings)["embeddings"]
    'freeze the embeddings.'
    """
    descriptions: dict[str, str] = {}
    for each in reversed(cls.__mro__):
        if dataclasses.is_dataclass(each):
            descriptions |= _attributes(_docstring(each))
    return descriptions


def _docstring(cls: type) -> str:
    # A dataclass without a docstring gets its signature as one.
    text = cls.__dict__.get("__doc__") or ""
    return "" if text.startswith(f"{cls.__name__}(") else inspect.cleandoc(text)


def _attributes(docstring: str) -> dict[str, str]:
    """Return name -> description of the section `Attributes:` of a docstring."""
    _, found, section = f"\n{docstring}".partition(f"\n{_ATTRIBUTES}\n")
    if not found:
        return {}
    lines: list[str] = []
    for line in section.splitlines():
        if line.strip() and not line.startswith(" "):
            break
        lines.append(line)
    entries = re.split(r"^(?=\w+: )", textwrap.dedent("\n".join(lines)), flags=re.MULTILINE)
    pairs = (entry.partition(": ") for entry in entries if entry.strip())
    return {name: " ".join(description.split()) for name, _, description in pairs}
