"""The decision on whether the tags of a file mark spans or are plain labels, such as parts of speech."""

import re
from collections.abc import Collection, Iterable
from typing import NamedTuple

from bert_lightning.tags import OUTSIDE, match_span_tag
from bert_lightning.tasks.token_classification.nearest_tag import nearest_tag

_SEVERAL = re.compile(r"[BIESLU]-.*[^\w-][BIESLU]-.+", re.DOTALL)


class TagVerdict(NamedTuple):
    """The decision about how the tags of a file are read.

    Attributes:
        spans: whether they mark spans; otherwise they are plain labels.
        refused: tags that contradict `spans`: they are nearly tags of spans, or mark no span although others do.
        doubtful: plain labels that could also be tags of spans.
    """

    spans: bool
    refused: frozenset[str] = frozenset()
    doubtful: frozenset[str] = frozenset()


class _Forms(NamedTuple):
    """The distinct tags of a file by their form.

    Attributes:
        typed: tags of spans with a type, such as `B-PER`.
        letters: tags of spans without a type, such as `B`.
        others: all other tags except `O`.
        has_outside: whether `O` is among the tags.
    """

    typed: frozenset[str]
    letters: frozenset[str]
    others: frozenset[str]
    has_outside: bool


def judge_tags(tags: Iterable[str]) -> TagVerdict:
    """Decide whether the tags of a file mark spans.

    1. If a tag has B or I and a type, the tags mark spans. Then every other tag must also mark a span, or be O.
    2. Otherwise, some tags may be nearly of this form, such as `B_PER`. They mean spans if something like O is among
       the tags, if all tags are of this form, or if one type has both B and I.
    3. Single letters with B or I among them mark spans without a type, if there are no other tags.
    4. Single letters among many other tags are plain labels. Tag sets of parts of speech have such letters (Gimpel et
       al. 2011: O, S, L, U, E; MULTEXT: I, S). They also have tags such as `I-` (PROIEL) and `i--------` (Perseus),
       and names such as `E-mail`.

    >>> judge_tags(["B-PER", "I-PER", "O", "LOC"])
    TagVerdict(spans=True, refused=frozenset({'LOC'}), doubtful=frozenset())
    >>> judge_tags(["NOUN", "VERB"]).spans
    False
    """
    distinct = set(tags)
    forms = _forms_of(distinct)
    readings = _readings(forms.others, distinct, vague=False)
    if forms.typed:
        return _judge_typed(forms, readings)
    if _are_nearly_typed(forms, readings):
        return TagVerdict(True, refused=forms.others | forms.letters)
    return _judge_letters(forms, distinct)


def _forms_of(distinct: set[str]) -> _Forms:
    splits = {tag: split for tag in distinct if (split := match_span_tag(tag)) is not None}
    typed = frozenset(tag for tag, split in splits.items() if split.type)
    return _Forms(typed, frozenset(splits) - typed, frozenset(distinct - {*splits, OUTSIDE}), OUTSIDE in distinct)


def _readings(others: Iterable[str], distinct: Collection[str], vague: bool) -> dict[str, str]:
    """Return the nearest tag of a span for each of the tags that have one."""
    readings = {tag: nearest_tag(tag, distinct, vague) for tag in others}
    return {tag: reading for tag, reading in readings.items() if reading is not None}


def _judge_typed(forms: _Forms, readings: dict[str, str]) -> TagVerdict:
    """Judge tags of which some have a letter and a type.

    B and I with a type occur in no other tag sets. E, S, L and U do, in names such as `E-mail`. They count only
    if the other tags support them: there are none, one nearly has a prefix and a type, or one looks like O.
    """
    has_start = any(tag[0] in "BI" for tag in forms.typed)
    has_nearly_typed = any("-" in reading for reading in readings.values())
    has_like_outside = any(reading == OUTSIDE and len(tag) == 1 for tag, reading in readings.items())
    if has_start or not forms.others or has_nearly_typed or has_like_outside:
        return TagVerdict(True, refused=forms.others | forms.letters | _of_two_schemes(forms.typed))
    return TagVerdict(False, doubtful=forms.typed)


def _are_nearly_typed(forms: _Forms, readings: dict[str, str]) -> bool:
    """Return whether tags such as `B_PER` and `I_PER` are meant as tags of spans, in a file without any `B-PER`.

    One of them must start a span with B or I. One more condition must be true: something like O is among the tags,
    all tags are of this form, or one type has both B and I.
    """
    typed = {tag: reading for tag, reading in readings.items() if "-" in reading}
    types_of_b = {reading[1:] for reading in typed.values() if reading[0] == "B"}
    types_of_i = {reading[1:] for reading in typed.values() if reading[0] == "I"}
    if not types_of_b and not types_of_i:
        return False
    has_outside = forms.has_outside or OUTSIDE in readings.values()
    return has_outside or len(typed) == len(forms.others) or bool(types_of_b & types_of_i)


def _judge_letters(forms: _Forms, distinct: set[str]) -> TagVerdict:
    """Judge tags of which none has a type."""
    has_start = bool(forms.letters & {"B", "I"})
    readings = _readings(forms.others, distinct, vague=has_start)
    near = {tag: reading for tag, reading in readings.items() if "-" not in reading}
    prefixes = forms.letters | set(near.values()) | ({OUTSIDE} if forms.has_outside else set())
    if not prefixes & {"B", "I"}:
        # Without B and I, no span can start. Tags that are all O still count as tags of spans, of which there are
        # none. E, S, L and U next to O are doubtful.
        only_outside = not forms.letters and not forms.others
        is_doubtful = not forms.others and forms.has_outside
        return TagVerdict(only_outside, doubtful=forms.letters if is_doubtful else frozenset())
    if not forms.others:
        return TagVerdict(True, refused=_of_two_schemes(forms.letters))
    # Tags unlike any prefix must be fewer than the prefixes. If B and I are only guessed, no such tag is allowed.
    num_unlike = len(forms.others) - len(near)
    are_few = num_unlike < len(prefixes) if has_start else num_unlike == 0
    if are_few and (OUTSIDE in prefixes or {"B", "I"} <= prefixes):
        return TagVerdict(True, refused=forms.others)
    return TagVerdict(False)


def _of_two_schemes(tags: frozenset[str]) -> frozenset[str]:
    """Return the tags that only BILOU has if there are tags that only BIOES has; otherwise none."""
    has_bioes = any(tag[0] in "ES" for tag in tags)
    return frozenset(tag for tag in tags if tag[0] in "LU") if has_bioes else frozenset()


def is_several(tag: str) -> bool:
    """Return whether a tag of a span holds another one, such as `B-PER|B-ORG` of nested entities."""
    return _SEVERAL.fullmatch(tag) is not None
