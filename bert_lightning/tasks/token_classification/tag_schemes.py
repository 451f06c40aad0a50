"""Tags of spans: decide whether the tags of a file mark spans, detect their scheme, and convert between schemes."""

import re
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from bert_lightning.metrics.entities import OUTSIDE, Span, spans_of
from bert_lightning.metrics.entities import StrictScheme as TagScheme

# A single letter marks a span without a type. A type neither begins nor ends with a blank.
_SPAN_TAG = re.compile(r"([BIESLU])(?:-(\S|\S.*\S))?", re.DOTALL)
# Scheme -> prefixes of a span's first, inner and last tag, and of a span of one.
_PREFIXES: dict[TagScheme, tuple[str, str, str, str]] = {
    "IOB2": ("B", "I", "I", "B"),
    "BIOES": ("B", "I", "E", "S"),
    "BILOU": ("B", "I", "L", "U"),
}
# Capital letters of the Cyrillic and the Greek alphabet that look like Latin ones.
_LOOK_ALIKE = str.maketrans(
    "\u0410\u0412\u0415\u0405\u0406\u0408\u041a\u041c\u041d\u041e\u0420\u0421\u0422\u0423\u0425\u04c0"
    "\u0391\u0392\u0395\u0396\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a5\u03a7",
    "ABESIJKMHOPCTYXIABEZHIKMNOPTYX",
)
# Readings that count only beside tags that surely mark spans. BMES and BMEWO of Chinese corpora have M and W.
_VAGUE = {"8": "B", **dict.fromkeys("1|!lMm", "I"), "3": "E", **dict.fromkeys("5Ww", "S")}
_LETTERS = ("B", "I", "E", "S", "L", "U", OUTSIDE)
_WORDS = {"begin": "B", "beginning": "B", "inside": "I", "end": "E", "single": "S", "last": "L", "unit": "U"}
_OUTSIDE_WORDS = {"none", "null", "nil", "out", "outside"}
_VAGUE_OUTSIDE = {"other", "-", "_"}
# A hyphen that shows only at the end of a line.
_SOFT_HYPHEN = "\u00ad"
_SEPARATORS = r"[\W_]"
_PREFIX_FIRST = re.compile(rf"([^\W_]+|[|!]){_SEPARATORS}+(.*)", re.DOTALL)
_PREFIX_LAST = re.compile(rf"(.*?){_SEPARATORS}+([^\W_])", re.DOTALL)
_FRACTION = re.compile(r"[-+]?\d*[.,]\d+(e[-+]?\d+)?", re.IGNORECASE)
_SEVERAL = re.compile(r"[BIESLU]-.*[^\w-][BIESLU]-.+", re.DOTALL)
_QUOTES = " \t\r\n\"'`[](){}<>"


class TagVerdict(NamedTuple):
    """The way in which the tags of a file are read.

    Attributes:
        spans: whether they mark spans; otherwise they are plain labels, such as parts of speech.
        refused: tags that contradict this: they are nearly tags of spans, or mark no span although others do.
        doubtful: plain labels that could also be tags of spans.
    """

    spans: bool
    refused: frozenset[str] = frozenset()
    doubtful: frozenset[str] = frozenset()


def judge_tags(tags: Iterable[str]) -> TagVerdict:
    """Decide whether the tags of a file mark spans.

    One tag with B or I and a type is enough: then every other tag must mark a span too, or be O. Without such a tag,
    tags that are nearly of this form count if something like O is among them, or both B and I of one type.
    Single letters are spans without a type if there are no other tags. Single letters among more tags of other kinds
    are plain labels, because tag sets of parts of speech have them too (Gimpel et al. 2011: O, S, L, U, E; MULTEXT:
    I, S). Such sets also have tags such as `I-` (PROIEL) and `i--------` (Perseus), and names such as `E-mail`.
    """
    distinct = set(tags)
    typed = {tag for tag in distinct if (match := _SPAN_TAG.fullmatch(tag)) and match[2]}
    letters = {tag for tag in distinct if _SPAN_TAG.fullmatch(tag)} - typed
    rest = distinct - typed - letters - {OUTSIDE}
    near = {tag: reading for tag in rest if (reading := nearest_tag(tag, distinct, vague=False))}
    near_typed = {tag: reading for tag, reading in near.items() if "-" in reading}

    like_outside = any(reading == OUTSIDE and len(tag) == 1 for tag, reading in near.items())
    if any(tag[0] in "BI" for tag in typed) or (typed and (not rest or near_typed or like_outside)):
        return TagVerdict(True, frozenset(rest | letters | _of_two_schemes(typed)))
    if typed:
        return TagVerdict(False, doubtful=frozenset(typed))
    if _nearly_typed(near_typed, OUTSIDE in {*distinct, *near.values()}, len(near_typed) == len(rest)):
        return TagVerdict(True, frozenset(rest | letters))
    return _judge_letters(distinct, letters, rest)


def _judge_letters(distinct: set[str], letters: set[str], rest: set[str]) -> TagVerdict:
    """Return the verdict on tags of which none has a type."""
    starts = letters & {"B", "I"}
    readings = {tag: nearest_tag(tag, distinct, vague=bool(starts)) for tag in rest}
    near = {tag: reading for tag, reading in readings.items() if reading is not None and "-" not in reading}
    read = letters | {OUTSIDE} & distinct | set(near.values())
    num_others = len(rest) - len(near)
    if not read & {"B", "I"}:
        # Only O, E, S, L and U.
        return TagVerdict(
            not letters and not rest, doubtful=frozenset(letters if not rest and OUTSIDE in read else ())
        )
    if not rest:
        return TagVerdict(True, frozenset(_of_two_schemes(letters)))
    if (OUTSIDE in read or {"B", "I"} <= read) and num_others < (len(read) if starts else 1):
        return TagVerdict(True, frozenset(rest))
    return TagVerdict(False)


def _nearly_typed(near: dict[str, str], has_outside: bool, is_all: bool) -> bool:
    starts = {reading for reading in near.values() if reading[0] in "BI"}
    pairs = {reading[1:] for reading in starts if reading[0] == "B"} & {r[1:] for r in starts if r[0] == "I"}
    return bool(starts) and (has_outside or is_all or bool(pairs))


def _of_two_schemes(tags: set[str]) -> set[str]:
    """Return the tags that only BILOU has if there are tags that only BIOES has; otherwise none."""
    return {tag for tag in tags if tag[0] in "LU"} if any(tag[0] in "ES" for tag in tags) else set()


def nearest_tag(tag: str, known: Collection[str] = (), vague: bool = True) -> str | None:
    """Return the tag of a scheme that was likely meant, preferably one of `known`; None if no tag is near.

    Args:
        tag: a tag that belongs to no scheme.
        known: the other tags of the file.
        vague: whether digits may stand for letters that look like them, and M and W for tags of BMES.
    """
    text = unicodedata.normalize("NFKC", tag)
    text = "".join(char for char in text.replace(_SOFT_HYPHEN, "-") if unicodedata.category(char) != "Cf")
    text = "".join("-" if unicodedata.category(char) == "Pd" or char == "\u2212" else char for char in text)
    text = text.strip(_QUOTES)
    if _FRACTION.fullmatch(text):
        return None
    if text.casefold() in _OUTSIDE_WORDS or (vague and text.casefold() in _VAGUE_OUTSIDE):
        return OUTSIDE
    found = _prefixes(text, vague)
    if not found and (match := _PREFIX_FIRST.fullmatch(text)):
        found = [_tag(prefix, match[2].strip(_QUOTES)) for prefix in _prefixes(match[1], vague)]
    elif not found and re.fullmatch(r"-+[^\W\d_]([\w-]*\w)?", text):
        found = [_tag(prefix, text.lstrip("-")) for prefix in "BIESLU"]
    if not found and (match := _PREFIX_LAST.fullmatch(text)) and match[1]:
        found = [_tag(prefix, match[1].strip(_QUOTES)) for prefix in _prefixes(match[2], False)]
    if not found and text[:1] in tuple("BIESLU"):
        parted = _tag(text[0], text[1:])
        found = [parted] if parted in known or (tag in known and _are_joined(known)) else []
    found = [each for each in found if each != tag]
    return next((each for each in found if each in known), found[0] if found else None)


def _are_joined(tags: Collection[str]) -> bool:
    """Whether all tags except O are a letter and a type without a separator: BPER, IPER, with both B and I of a type.

    Types of one letter do not count, because tag sets of parts of speech have BN and IN.
    """
    others = [tag for tag in tags if tag != OUTSIDE]
    if not all(tag[0] in "BIESLU" and re.fullmatch(r"\d+|[^\W_]{2,}", tag[1:]) for tag in others):
        return False
    return any(tag[0] == "B" and f"I{tag[1:]}" in tags for tag in others)


def _prefixes(text: str, vague: bool) -> list[str]:
    """Return the prefixes that a text may stand for, the likeliest first."""
    letter = text.upper().translate(_LOOK_ALIKE)
    prefixes = (
        letter if letter in _LETTERS else None,
        OUTSIDE if text in ("0", "\u3007") else None,
        _WORDS.get(text.casefold()),
        _VAGUE.get(text) if vague else None,
    )
    return [prefix for prefix in prefixes if prefix is not None]


def _tag(prefix: str, kind: str) -> str:
    return f"{prefix}-{kind}" if kind and prefix != OUTSIDE else prefix


def tag_problem(tag: str, known: Collection[str]) -> str:
    """Describe why a tag does not mark a span as the other tags do, and name the tag that was likely meant."""
    spans = sorted(each for each in known if each not in (tag, OUTSIDE) and is_span_tag(each))
    if not is_span_tag(tag):
        beside = f", though others do, such as {spans[0]!r}" if spans else ""
        reading = nearest_tag(tag, known)
        return f"marks no span{beside}" + (f"; the nearest tag is {reading!r}" if reading is not None else "")
    other = next((each for each in spans if has_type(each) != has_type(tag)), None)
    if other is None:
        return "is of BILOU, but others are of BIOES"
    return f"has {'a' if has_type(tag) else 'no'} type, unlike {other!r}"


def similar_types(types: Iterable[str]) -> tuple[str, str] | None:
    """Return two types that differ only in case, separators, or characters that look alike; None otherwise."""
    seen: dict[str, str] = {}
    for name in sorted(set(types)):
        text = unicodedata.normalize("NFKC", name).upper().translate(_LOOK_ALIKE)
        folded = "".join(char for char in text if char.isalnum())
        if seen.setdefault(folded, name) != name:
            return seen[folded], name
    return None


def detect_scheme(sentences: Iterable[Sequence[str]]) -> TagScheme:
    """Return the scheme of tags that mark spans.

    BIOES and BILOU are known by their letters. With B and I alone it is IOB2 unless some span starts with I and every
    B touches a span of its own type before it, as in IOB1.
    """
    prefixes: set[str] = set()
    bare_start = free_b = False
    for tags in sentences:
        before, kind_before = OUTSIDE, ""
        for tag in tags:
            match = _SPAN_TAG.fullmatch(tag)
            prefix, kind = (match[1], match[2] or "") if match is not None else (OUTSIDE, "")
            prefixes.add(prefix)
            continues = before != OUTSIDE and kind == kind_before
            bare_start |= prefix == "I" and not continues
            free_b |= prefix == "B" and not continues
            before, kind_before = prefix, kind
    if prefixes & {"L", "U"}:
        return "BILOU"
    if prefixes & {"E", "S"}:
        return "BIOES"
    return "IOB1" if bare_start and not free_b else "IOB2"


def is_several(tag: str) -> bool:
    """Whether a tag of a span holds another one, such as `B-PER|B-ORG` of nested entities."""
    return _SEVERAL.fullmatch(tag) is not None


def is_fraction(tag: str) -> bool:
    """Whether a tag is a number with a decimal point, such as the confidence in a further column."""
    return _FRACTION.fullmatch(tag) is not None


def is_span_tag(tag: str) -> bool:
    """Whether a tag is O or marks a part of a span."""
    return tag == OUTSIDE or _SPAN_TAG.fullmatch(tag) is not None


def has_type(tag: str) -> bool:
    """Return whether a tag of a span names its type."""
    return "-" in tag


def labels_are_spans(labels: Sequence[str]) -> bool:
    """Return whether a model's labels are those that `all_tags` returns for some types.

    Single letters may also be plain labels. Those are sorted, so that O does not come before B or I.
    """
    if not all(map(is_span_tag, labels)):
        return False
    return any(map(has_type, labels)) or (labels[0] == OUTSIDE and "B" in labels)


def tags_of(spans: Iterable[Span], length: int, scheme: TagScheme) -> list[str]:
    """Spans as the tags of so many words."""
    tags = [OUTSIDE] * length
    end_before, type_before = 0, None
    for span in sorted(spans, key=lambda each: each.start):
        if scheme == "IOB1":
            # Ramshaw and Marcus 1995: B only where a span touches one of its own type before it.
            touches = span.start > 0 and span.start == end_before and span.type == type_before
            first, inner, last, single = ("B" if touches else "I"), "I", "I", ("B" if touches else "I")
        else:
            first, inner, last, single = _PREFIXES[scheme]
        prefixes = [first, *[inner] * (span.end - span.start - 2), last] if span.end - span.start > 1 else [single]
        tags[span.start : span.end] = [_tag(prefix, span.type) for prefix in prefixes]
        end_before, type_before = span.end, span.type
    return tags


def convert(tags: Sequence[str], scheme: TagScheme) -> list[str]:
    """Convert tags of any scheme to those of `scheme`; `spans_of` reads sequences that break their own scheme."""
    return tags_of(spans_of(tags), len(tags), scheme)


def all_tags(types: Iterable[str], scheme: TagScheme) -> list[str]:
    """O and every tag of a scheme over the given types, by type: the labels of a model."""
    prefixes = ("B", "I") if scheme == "IOB1" else tuple(dict.fromkeys(_PREFIXES[scheme]))
    return [OUTSIDE, *(_tag(prefix, name) for name in sorted(types) for prefix in prefixes)]


class SchemeCheck:
    """Whether tag sequences keep to a scheme; over the types that occur in them."""

    def __init__(self, scheme: TagScheme, tags: Iterable[str]) -> None:
        # Imported here because it loads torch, which the scoring of files does not need.
        from bert_lightning.model.tag_schemes import allowed_by_scheme

        self.labels = {tag: number for number, tag in enumerate(sorted({OUTSIDE, *tags}))}
        self.allowed = allowed_by_scheme(list(self.labels), scheme)

    def first_break(self, tags: Sequence[str]) -> int | None:
        """The first word whose tag may not stand there, or None."""
        ids = [self.labels[tag] for tag in tags]
        starts, transitions, ends = self.allowed
        for number, tag in enumerate(ids):
            if not (starts[tag] if number == 0 else transitions[ids[number - 1], tag]):
                return number
        return len(ids) - 1 if ids and not ends[ids[-1]] else None
