"""The tag of a scheme that was likely meant by a tag that belongs to none, such as `B_PER`, `b-PER` or `PER-B`.

Error messages suggest it. It also helps to decide whether the tags of a file mark spans (`tag_verdict.py`). It never
replaces a tag.
"""

import re
import unicodedata
from collections.abc import Collection

from bert_lightning.tags import OUTSIDE, PREFIXES, has_type, is_span_tag, join_tag

# Capital letters of the Cyrillic and the Greek alphabet that look like Latin ones.
_LOOK_ALIKE = str.maketrans(
    "\u0410\u0412\u0415\u0405\u0406\u0408\u041a\u041c\u041d\u041e\u0420\u0421\u0422\u0423\u0425\u04c0"
    "\u0391\u0392\u0395\u0396\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a5\u03a7",
    "ABESIJKMHOPCTYXIABEZHIKMNOPTYX",
)
# Readings that count only if other tags clearly mark spans. BMES and BMEWO of Chinese corpora have M and W.
_VAGUE = {"8": "B", **dict.fromkeys("1|!lMm", "I"), "3": "E", **dict.fromkeys("5Ww", "S")}
_WORDS = {"begin": "B", "beginning": "B", "inside": "I", "end": "E", "single": "S", "last": "L", "unit": "U"}
_OUTSIDE_WORDS = {"none", "null", "nil", "out", "outside"}
_VAGUE_OUTSIDE = {"other", "-", "_"}
# A hyphen that is visible only at the end of a line.
_SOFT_HYPHEN = "\u00ad"
_MINUS = "\u2212"
_SEPARATORS = r"[\W_]"
_PREFIX_FIRST = re.compile(rf"([^\W_]+|[|!]){_SEPARATORS}+(.*)", re.DOTALL)
_PREFIX_LAST = re.compile(rf"(.*?){_SEPARATORS}+([^\W_])", re.DOTALL)
_TYPE_ALONE = re.compile(r"-+[^\W\d_]([\w-]*\w)?")
_JOINED_TYPE = re.compile(r"\d+|[^\W_]{2,}")
_FRACTION = re.compile(r"[-+]?\d*[.,]\d+(e[-+]?\d+)?", re.IGNORECASE)
_QUOTES = " \t\r\n\"'`[](){}<>"


def nearest_tag(tag: str, known: Collection[str] = (), vague: bool = True) -> str | None:
    """Return the tag of a scheme that was likely meant, preferably one of `known`; None if no tag is near.

    Args:
        tag: a tag that belongs to no scheme.
        known: the other tags of the file.
        vague: whether digits may stand for letters that look like them, and M and W for tags of BMES.

    >>> nearest_tag("b_PER"), nearest_tag("PER-B"), nearest_tag("0"), nearest_tag("NOUN")
    ('B-PER', 'B-PER', 'O', None)
    """
    text = _cleaned(tag)
    if is_fraction(text):
        return None
    if text.casefold() in _OUTSIDE_WORDS or (vague and text.casefold() in _VAGUE_OUTSIDE):
        return OUTSIDE
    # The forms of a tag, the likeliest first. The first one that fits gives the readings.
    readings = (
        _prefixes(text, vague)
        or _read_prefix_first(text, vague)
        or _read_type_alone(text)
        or _read_prefix_last(text)
        or _read_joined(text, tag, known)
    )
    readings = [reading for reading in readings if reading != tag]
    return next((reading for reading in readings if reading in known), readings[0] if readings else None)


def _cleaned(tag: str) -> str:
    """Return a tag in plain characters: hyphens of one kind, and no quotes, brackets or invisible characters."""
    text = unicodedata.normalize("NFKC", tag).replace(_SOFT_HYPHEN, "-")
    text = "".join(char for char in text if unicodedata.category(char) != "Cf")
    text = "".join("-" if unicodedata.category(char) == "Pd" or char == _MINUS else char for char in text)
    return text.strip(_QUOTES)


def _prefixes(text: str, vague: bool) -> list[str]:
    """Return the prefixes that a text may mean, the likeliest first."""
    letter = text.upper().translate(_LOOK_ALIKE)
    prefixes = (
        letter if letter in (*PREFIXES, OUTSIDE) else None,
        # A zero and the ideographic zero look like O.
        OUTSIDE if text in ("0", "\u3007") else None,
        _WORDS.get(text.casefold()),
        _VAGUE.get(text) if vague else None,
    )
    return [prefix for prefix in prefixes if prefix is not None]


def _read_prefix_first(text: str, vague: bool) -> list[str]:
    """Read a prefix, any separators and a type: `B_PER`, `Begin: PER`."""
    match = _PREFIX_FIRST.fullmatch(text)
    return [join_tag(prefix, match[2].strip(_QUOTES)) for prefix in _prefixes(match[1], vague)] if match else []


def _read_type_alone(text: str) -> list[str]:
    """Read a type after hyphens, whose prefix is missing: `-PER`. Every prefix is possible."""
    return [join_tag(prefix, text.lstrip("-")) for prefix in PREFIXES] if _TYPE_ALONE.fullmatch(text) else []


def _read_prefix_last(text: str) -> list[str]:
    """Read a type, any separators and a letter: `PER-B`."""
    match = _PREFIX_LAST.fullmatch(text)
    if match is None or not match[1]:
        return []
    return [join_tag(prefix, match[1].strip(_QUOTES)) for prefix in _prefixes(match[2], False)]


def _read_joined(text: str, tag: str, known: Collection[str]) -> list[str]:
    """Read a letter and a type without a separator: `BPER`.

    Many words begin with these letters. So the reading counts only if the file also has `B-PER`, or if all its tags
    are joined.
    """
    if text[:1] not in PREFIXES:
        return []
    reading = join_tag(text[0], text[1:])
    return [reading] if reading in known or (tag in known and _are_joined(known)) else []


def _are_joined(tags: Collection[str]) -> bool:
    """Return whether all tags except O are a letter and a type without a separator, with both B and I of a type.

    Types of one letter do not count, because tag sets of parts of speech have BN and IN.
    """
    span_tags = [tag for tag in tags if tag != OUTSIDE]
    if not all(tag[:1] in PREFIXES and _JOINED_TYPE.fullmatch(tag[1:]) for tag in span_tags):
        return False
    return any(tag[0] == "B" and f"I{tag[1:]}" in tags for tag in span_tags)


def tag_problem(tag: str, known: Collection[str]) -> str:
    """Describe why a tag does not mark a span as the other tags do, and name the tag that was likely meant."""
    spans = sorted(each for each in known if each not in (tag, OUTSIDE) and is_span_tag(each))
    if not is_span_tag(tag):
        contrast = f", though others do, such as {spans[0]!r}" if spans else ""
        reading = nearest_tag(tag, known)
        return f"marks no span{contrast}" + (f"; the nearest tag is {reading!r}" if reading is not None else "")
    unlike = next((each for each in spans if has_type(each) != has_type(tag)), None)
    if unlike is None:
        return "is of BILOU, but others are of BIOES"
    return f"has {'a' if has_type(tag) else 'no'} type, unlike {unlike!r}"


def similar_types(types: Collection[str]) -> tuple[str, str] | None:
    """Return two types that differ only in case, separators, or similar characters; None if there are none.

    >>> similar_types({"PER", "per", "LOC"})
    ('PER', 'per')
    """
    by_letters: dict[str, str] = {}
    for name in sorted(types):
        text = unicodedata.normalize("NFKC", name).upper().translate(_LOOK_ALIKE)
        letters = "".join(char for char in text if char.isalnum())
        if by_letters.setdefault(letters, name) != name:
            return by_letters[letters], name
    return None


def is_fraction(tag: str) -> bool:
    """Return whether a tag is a number with a decimal point, such as a confidence from another column."""
    return _FRACTION.fullmatch(tag) is not None
