"""Tags of spans: their schemes, their prefixes and types, and the order that a scheme allows.

A tag is a prefix, alone or with a type after a hyphen: `B-PER`, `I-PER`, `O`, or `B` and `I` without types.
"""

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

# IOB1: Ramshaw and Marcus 1995; `B` only if a span touches one of its own type before it.
# IOB2: Tjong Kim Sang and Veenstra 1999. BILOU: Ratinov and Roth 2009; BIOES is the same with other letters.
TagScheme = Literal["IOB1", "IOB2", "BIOES", "BILOU"]
OUTSIDE = "O"
PREFIXES_OF: dict[TagScheme, tuple[str, ...]] = {
    "IOB1": ("B", "I"),
    "IOB2": ("B", "I"),
    "BIOES": ("B", "I", "E", "S"),
    "BILOU": ("B", "I", "L", "U"),
}
PREFIXES = ("B", "I", "E", "S", "L", "U")
# BILOU writes L for the last tag of a span and U for a span of one tag. BIOES writes E and S.
_AS_BIOES = {"L": "E", "U": "S"}
# A single letter marks a span without a type. A type neither begins nor ends with a blank.
_SPAN_TAG = re.compile(r"([BIESLU])(?:-(\S|\S.*\S))?", re.DOTALL)


class SplitTag(NamedTuple):
    """A tag as its prefix and its type.

    Attributes:
        prefix: such as `B`; `O` outside spans.
        type: such as `PER`; empty if the tag has none.
    """

    prefix: str
    type: str

    @property
    def in_bioes(self) -> "SplitTag":
        """The tag with L and U of BILOU written as E and S of BIOES."""
        return self._replace(prefix=_AS_BIOES.get(self.prefix, self.prefix))


# The tag before the first word of a sentence, and the tag after its last word.
BOUNDARY = SplitTag(OUTSIDE, "")


def split_tag(tag: str, prefixes: Sequence[str] = PREFIXES) -> SplitTag:
    """Split a tag at its first hyphen, as conlleval does.

    Raises:
        ValueError: the tag is neither `O` nor one of `prefixes`, alone or before a hyphen.

    >>> split_tag("B-GROUP-A")
    SplitTag(prefix='B', type='GROUP-A')
    """
    prefix, _, kind = tag.partition("-")
    if tag != OUTSIDE and prefix not in prefixes:
        raise ValueError(
            f"the tag {tag!r} is neither {OUTSIDE} nor one of {' '.join(prefixes)} with a type, such as B-PER"
        )
    return SplitTag(prefix, kind)


def split_tag_of(tag: str, scheme: TagScheme) -> SplitTag:
    """Split a tag of one scheme, and write its prefix with the letters of BIOES.

    Raises:
        ValueError: the tag is not of the scheme.

    >>> split_tag_of("U-PER", "BILOU")
    SplitTag(prefix='S', type='PER')
    """
    split = split_tag(tag)
    if split.prefix not in (OUTSIDE, *PREFIXES_OF[scheme]):
        known = ", ".join(PREFIXES_OF[scheme])
        raise ValueError(f"the tag {tag!r} is not of the scheme {scheme}, which has {known} and {OUTSIDE}")
    return split.in_bioes


def join_tag(prefix: str, kind: str) -> str:
    """Return the tag with a prefix and a type.

    >>> join_tag("B", "PER"), join_tag("B", ""), join_tag("O", "PER")
    ('B-PER', 'B', 'O')
    """
    return f"{prefix}-{kind}" if kind and prefix != OUTSIDE else prefix


def match_span_tag(tag: str) -> SplitTag | None:
    """Split a tag that marks a span in any scheme; return None for any other tag, `O` included.

    This is stricter than `split_tag`: a hyphen must have a type after it.
    """
    match = _SPAN_TAG.fullmatch(tag)
    return SplitTag(match[1], match[2] or "") if match is not None else None


def is_span_tag(tag: str) -> bool:
    """Return whether a tag is `O` or marks a span."""
    return tag == OUTSIDE or _SPAN_TAG.fullmatch(tag) is not None


def has_type(tag: str) -> bool:
    """Return whether a tag of a span names its type."""
    return "-" in tag


def check_scheme_name(scheme: str, name: str) -> None:
    """Check that a scheme exists.

    Raises:
        ValueError: there is no such scheme. The message begins with `name`.
    """
    if scheme not in get_args(TagScheme):
        raise ValueError(f"{name} is {scheme!r}; known: {', '.join(get_args(TagScheme))}")


def continues_span(before: SplitTag, after: SplitTag) -> bool:
    """Return whether two neighbouring tags, in the letters of BIOES, belong to the same span."""
    return before.prefix in ("B", "I") and after.prefix in ("I", "E") and before.type == after.type


def may_follow(before: SplitTag, after: SplitTag, scheme: TagScheme) -> bool:
    """Return whether a scheme allows two tags, in the letters of BIOES, to be neighbours.

    With `BOUNDARY` as `before`, return whether `after` may begin a sentence. With `BOUNDARY` as `after`, return
    whether `before` may end one.

    >>> may_follow(SplitTag("B", "PER"), SplitTag("I", "LOC"), "IOB2")
    False
    """
    same_type = before.prefix != OUTSIDE and before.type == after.type
    if scheme == "IOB1":
        return after.prefix != "B" or same_type
    if scheme == "IOB2":
        return after.prefix != "I" or same_type
    # A span of BIOES is open after B and I, and only I and E continue it.
    is_open = before.prefix in ("B", "I")
    return continues_span(before, after) if is_open else after.prefix not in ("I", "E")
