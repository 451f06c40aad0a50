"""Tags of spans from one scheme to another: which one a file keeps to, and what breaks it."""

import re
from collections.abc import Iterable, Sequence

from bert_lightning.metrics.entities import Span, spans_of
from bert_lightning.model.tag_schemes import OUTSIDE, TagScheme, allowed_by_scheme

_SPAN_TAG = re.compile(r"([BIESLU])-(.+)", re.DOTALL)
# Scheme -> prefixes of a span's first, inner and last tag, and of a span of one.
_PREFIXES: dict[TagScheme, tuple[str, str, str, str]] = {
    "IOB2": ("B", "I", "I", "B"),
    "BIOES": ("B", "I", "E", "S"),
    "BILOU": ("B", "I", "L", "U"),
}


def detect_scheme(sentences: Iterable[Sequence[str]]) -> TagScheme | None:
    """The scheme of a file's tags; None where most mark no spans, such as parts of speech.

    BIOES and BILOU are known by their letters. With B and I alone it is IOB2 unless some span starts with I and every
    B touches a span of its own type before it, as in IOB1.
    """
    prefixes: set[str] = set()
    num_spans = num_others = 0
    bare_start = free_b = False
    for tags in sentences:
        before, kind_before = OUTSIDE, ""
        for tag in tags:
            match = _SPAN_TAG.fullmatch(tag)
            num_spans += match is not None
            num_others += not is_span_tag(tag)
            prefix, kind = (match[1], match[2]) if match is not None else (OUTSIDE, "")
            prefixes.add(prefix)
            continues = before != OUTSIDE and kind == kind_before
            bare_start |= prefix == "I" and not continues
            free_b |= prefix == "B" and not continues
            before, kind_before = prefix, kind
    if num_others > num_spans:
        return None
    if prefixes & {"L", "U"}:
        return None if prefixes & {"E", "S"} else "BILOU"
    if prefixes & {"E", "S"}:
        return "BIOES"
    return "IOB1" if bare_start and not free_b else "IOB2"


def is_span_tag(tag: str) -> bool:
    """Whether a tag is O or marks a part of a span."""
    return tag == OUTSIDE or _SPAN_TAG.fullmatch(tag) is not None


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
        tags[span.start : span.end] = [f"{prefix}-{span.type}" for prefix in prefixes]
        end_before, type_before = span.end, span.type
    return tags


def convert(tags: Sequence[str], scheme: TagScheme) -> list[str]:
    """Tags of any scheme to those of `scheme`; what breaks its own is read as conlleval reads it."""
    return tags_of(spans_of(tags), len(tags), scheme)


def all_tags(types: Iterable[str], scheme: TagScheme) -> list[str]:
    """O and every tag of a scheme over the given types, by type: the labels of a model."""
    prefixes = ("B", "I") if scheme == "IOB1" else tuple(dict.fromkeys(_PREFIXES[scheme]))
    return [OUTSIDE, *(f"{prefix}-{name}" for name in sorted(types) for prefix in prefixes)]


class SchemeCheck:
    """Whether tag sequences keep to a scheme; over the types that occur in them."""

    def __init__(self, scheme: TagScheme, tags: Iterable[str]) -> None:
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
