"""Spans in tag sequences: every span that malformed tags may mean, or only the well-formed ones."""

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

from bert_lightning.tags import (
    BOUNDARY,
    OUTSIDE,
    SplitTag,
    TagScheme,
    check_scheme_name,
    continues_span,
    split_tag,
    split_tag_of,
)

# seqeval's name of a type without a name.
_NAMELESS = "_"


class Span(NamedTuple):
    """An entity of one sentence.

    Attributes:
        type: its type, empty if the tags have none (`B`, `I`, `O`).
        start: number of its first token.
        end: number of the token after its last.
    """

    type: str
    start: int
    end: int


def spans_of(tags: Sequence[str]) -> list[Span]:
    """Return the spans of one sentence in order, also those of malformed tags.

    A span starts at B and S, at I and E after O, E or S, and if the type changes. It ends before the next start or O.
    For O, B and I these are the rules of conlleval.pl; for the other tags, those of the default mode of seqeval
    1.2.2. L is read as E, U as S.

    Raises:
        ValueError: a tag has an unknown prefix (`tags.split_tag`).

    >>> spans_of(["B-PER", "I-PER", "O", "I-LOC"])
    [Span(type='PER', start=0, end=2), Span(type='LOC', start=3, end=4)]
    """
    spans: list[Span] = []
    start, before = 0, BOUNDARY
    for position, tag in enumerate(chain(tags, [OUTSIDE])):
        split = split_tag(tag).in_bioes
        if not continues_span(before, split):
            if before.prefix != OUTSIDE:
                spans.append(Span(before.type, start, position))
            start = position
        before = split
    return spans


def strict_spans_of(tags: Sequence[str], scheme: TagScheme = "IOB2") -> list[Span]:
    """Return the well-formed spans of one sentence, in order: those of `seqeval.scheme.Tokens` of seqeval 1.2.2.

    A span that breaks the rules of its scheme does not count: in IOB2 an I without its B, in BIOES a B without its E.

    Raises:
        ValueError: the scheme does not exist, or a tag is not of it.

    >>> strict_spans_of(["B-PER", "I-PER", "O", "I-LOC"])
    [Span(type='PER', start=0, end=2)]
    """
    check_scheme_name(scheme, "scheme")
    splits = [split_strict_tag(tag, scheme) for tag in chain(tags, [OUTSIDE])]
    spans: list[Span] = []
    before, start = BOUNDARY, 0
    while start < len(tags):
        end = start + 1
        if _starts_well(before, splits[start], scheme):
            while continues_span(splits[end - 1], splits[end]):
                end += 1
            if _ends_well(splits[end - 1], splits[end], scheme):
                spans.append(Span(splits[start].type, start, end))
        before, start = splits[end - 1], end
    return spans


def split_strict_tag(tag: str, scheme: TagScheme) -> SplitTag:
    """Split a tag as seqeval does: hyphens at either end of the type are dropped, and `_` is a type without a name.

    The prefix is in the letters of BIOES.

    Raises:
        ValueError: the tag is not of the scheme.
    """
    return SplitTag(split_tag_of(tag, scheme).prefix, tag[1:].strip("-") or _NAMELESS)


def _starts_well(before: SplitTag, tag: SplitTag, scheme: TagScheme) -> bool:
    if scheme != "IOB1":
        return tag.prefix in ("B", "S")
    same_type = before.prefix != OUTSIDE and before.type == tag.type
    # A B of IOB1 only separates a span from one of its own type before it.
    return same_type if tag.prefix == "B" else tag.prefix == "I" and (before.prefix != "I" or not same_type)


def _ends_well(last: SplitTag, after: SplitTag, scheme: TagScheme) -> bool:
    if scheme in ("BIOES", "BILOU"):
        return last.prefix in ("E", "S")
    return scheme == "IOB2" or last.prefix != "B" or after.prefix != "B" or last.type == after.type
