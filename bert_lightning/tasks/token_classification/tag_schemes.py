"""Schemes of tags: detection of a file's scheme, checks of sequences, and conversion between schemes."""

from collections.abc import Iterable, Sequence

from bert_lightning.metrics.spans import Span, spans_of
from bert_lightning.tags import (
    BOUNDARY,
    OUTSIDE,
    PREFIXES_OF,
    TagScheme,
    has_type,
    is_span_tag,
    join_tag,
    match_span_tag,
    may_follow,
    split_tag_of,
)


def detect_scheme(sentences: Iterable[Sequence[str]]) -> TagScheme:
    """Return the scheme of tags that mark spans.

    BIOES and BILOU are recognised by their letters. With B and I alone, the scheme is IOB1 if some span starts with I
    and every B directly follows a span of the same type. Otherwise it is IOB2.

    >>> detect_scheme([["I-PER", "O", "I-PER", "B-PER"]])
    'IOB1'
    """
    prefixes: set[str] = set()
    has_start_with_i = has_free_b = False
    for tags in sentences:
        before = BOUNDARY
        for tag in tags:
            split = match_span_tag(tag) or BOUNDARY
            prefixes.add(split.prefix)
            touches = before.prefix != OUTSIDE and split.type == before.type
            has_start_with_i |= split.prefix == "I" and not touches
            has_free_b |= split.prefix == "B" and not touches
            before = split
    if prefixes & {"L", "U"}:
        return "BILOU"
    if prefixes & {"E", "S"}:
        return "BIOES"
    return "IOB1" if has_start_with_i and not has_free_b else "IOB2"


def first_break(tags: Sequence[str], scheme: TagScheme) -> int | None:
    """Return the number of the first word whose tag breaks the scheme; None if there is none.

    Raises:
        ValueError: a tag is not of the scheme.

    >>> first_break(["B-PER", "I-PER", "I-LOC"], "IOB2")
    2
    """
    before = BOUNDARY
    for number, tag in enumerate(tags):
        split = split_tag_of(tag, scheme)
        if not may_follow(before, split, scheme):
            return number
        before = split
    return len(tags) - 1 if tags and not may_follow(before, BOUNDARY, scheme) else None


def labels_are_spans(labels: Sequence[str]) -> bool:
    """Return whether a model's labels are those that `all_tags` returns for some types.

    Single letters may also be plain labels. Plain labels are sorted, so O is not the first of them if there is a B.
    """
    if not all(map(is_span_tag, labels)):
        return False
    return any(map(has_type, labels)) or (labels[0] == OUTSIDE and "B" in labels)


def tags_of(spans: Iterable[Span], length: int, scheme: TagScheme) -> list[str]:
    """Return the tags that mark spans in a sentence of `length` words.

    >>> tags_of([Span("PER", 0, 2), Span("LOC", 3, 4)], 4, "BIOES")
    ['B-PER', 'E-PER', 'O', 'S-LOC']
    """
    tags = [OUTSIDE] * length
    end_before, type_before = 0, None
    for span in sorted(spans, key=lambda each: each.start):
        touches = span.start > 0 and span.start == end_before and span.type == type_before
        prefixes = _prefixes_of_span(span.end - span.start, scheme, touches)
        tags[span.start : span.end] = [join_tag(prefix, span.type) for prefix in prefixes]
        end_before, type_before = span.end, span.type
    return tags


def _prefixes_of_span(length: int, scheme: TagScheme, touches: bool) -> list[str]:
    """Return the prefix of each word of a span. `touches` says that a span of its type ends directly before it."""
    if scheme == "IOB1":
        first = single = "B" if touches else "I"
        last = "I"
    elif scheme == "IOB2":
        first, last, single = "B", "I", "B"
    else:
        first, _, last, single = PREFIXES_OF[scheme]
    return [single] if length == 1 else [first, *["I"] * (length - 2), last]


def convert(tags: Sequence[str], scheme: TagScheme) -> list[str]:
    """Convert tags of any scheme to those of `scheme`. `spans_of` decides how sequences that break a scheme are read.

    >>> convert(["I-PER", "I-PER", "O"], "BILOU")
    ['B-PER', 'L-PER', 'O']
    """
    return tags_of(spans_of(tags), len(tags), scheme)


def all_tags(types: Iterable[str], scheme: TagScheme) -> list[str]:
    """Return the labels of a model: O, and every tag of a scheme for each type, sorted by type.

    >>> all_tags(["PER", "LOC"], "IOB2")
    ['O', 'B-LOC', 'I-LOC', 'B-PER', 'I-PER']
    """
    return [OUTSIDE, *(join_tag(prefix, name) for name in sorted(types) for prefix in PREFIXES_OF[scheme])]
