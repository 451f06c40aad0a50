"""The steps between tags that each scheme of spans allows: `B-PER`, `I-PER`, `O`, or `B` and `I` without types."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

TagScheme = Literal["IOB1", "IOB2", "BIOES", "BILOU"]
OUTSIDE = "O"
# BILOU calls the last tag of a span L and a span of one U where BIOES has E and S.
_AS_BIOES = {"L": "E", "U": "S"}


class Allowed(NamedTuple):
    """Possible tag sequences over L labels, True where a step is allowed."""

    starts: Tensor
    """(L,)"""
    transitions: Tensor
    """(L, L), from row to column"""
    ends: Tensor
    """(L,)"""


def allowed_by_scheme(labels: Sequence[str], scheme: TagScheme) -> Allowed:
    """The sequences that a scheme has.

    Ramshaw and Marcus 1995 (IOB1: `B-` only where a span touches one of its own type before it), Tjong Kim Sang and
    Veenstra 1999 (IOB2), Ratinov and Roth 2009 (BILOU; BIOES is the same under other letters).

    Raises:
        ValueError: an unknown scheme, or a label that is not of it.
    """
    if scheme not in get_args(TagScheme):
        raise ValueError(f"tag_scheme is {scheme!r}; known: {', '.join(get_args(TagScheme))}")
    tags = [_split(label, scheme) for label in labels]
    boundary = (OUTSIDE, "")
    return Allowed(
        torch.tensor([_follows(boundary, tag, scheme) for tag in tags]),
        torch.tensor([[_follows(before, tag, scheme) for tag in tags] for before in tags]),
        torch.tensor([_follows(tag, boundary, scheme) for tag in tags]),
    )


def _split(label: str, scheme: TagScheme) -> tuple[str, str]:
    prefix, dash, kind = label.partition("-")
    known = {"IOB1": "BI", "IOB2": "BI"}.get(scheme, scheme.replace(OUTSIDE, ""))
    if label != OUTSIDE and (prefix not in tuple(known) or (dash and not kind)):
        raise ValueError(f"the label {label!r} is not of the scheme {scheme}: {', '.join(known)} and {OUTSIDE}")
    if scheme == "BILOU":
        prefix = _AS_BIOES.get(prefix, prefix)
    return prefix, kind


def _follows(before: tuple[str, str], after: tuple[str, str], scheme: TagScheme) -> bool:
    same_type = before[1] == after[1] and before[0] != OUTSIDE
    if scheme == "IOB1":
        return after[0] != "B" or same_type
    if scheme == "IOB2":
        return after[0] != "I" or same_type
    inside = before[0] in ("B", "I")
    continues = after[0] in ("I", "E")
    return inside == continues and (not inside or same_type)
