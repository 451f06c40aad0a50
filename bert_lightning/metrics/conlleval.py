"""The span counts of conlleval.pl (Tjong Kim Sang, version of 2004-01-26).

They equal those of the script for all tags for which it has rules: O, B, I, E, `[`, `]` and `.`, but not S, L and U.
The script also counts spans of malformed tags, such as an I without a B before it.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import NamedTuple

from bert_lightning.tags import BOUNDARY, OUTSIDE, PREFIXES, SplitTag, split_tag

# A bracket is a span of one word, and `.` is like O.
_PREFIXES = (*PREFIXES, "[", "]", ".")
# Pairs of neighbouring prefixes between which a span ends, or starts, whatever the types are.
_ENDS = {"BB", "BO", "IB", "IO", "EE", "EI", "EO"}
_STARTS = {"BB", "IB", "OB", "OI", "EE", "EI", "OE"}

TagPair = tuple[Sequence[str], Sequence[str]]
"""The gold and the predicted tags of a sentence."""


class SpanCounts(NamedTuple):
    """The numbers of spans by type.

    Attributes:
        num_gold: in the gold tags.
        num_predicted: in the predicted tags.
        num_correct: in both.
    """

    num_gold: Counter[str]
    num_predicted: Counter[str]
    num_correct: Counter[str]


def split_conlleval_tag(tag: str) -> SplitTag:
    """Split a tag into prefix and type as conlleval.pl does.

    Raises:
        ValueError: the tag has an unknown prefix. Besides those of the schemes, `[`, `]` and `.` are allowed.
    """
    split = split_tag(tag, _PREFIXES)
    # `$type ? $type : ""` in Perl, where the text 0 is false.
    return split._replace(type="") if split.type == "0" else split


def count_as_conlleval(pairs: Iterable[TagPair]) -> SpanCounts:
    """Count as the main loop of conlleval.pl does, with a boundary after each sentence.

    Starts and ends are counted separately, because by the rules of the script a span may start while another one
    continues. A span is correct if it has the same type, start and end on both sides, and the sides agree in between.

    Raises:
        ValueError: as `split_conlleval_tag`.
    """
    num_gold, num_predicted, num_correct = Counter[str](), Counter[str](), Counter[str]()
    splits: dict[str, SplitTag] = {}
    gold_before = predicted_before = BOUNDARY
    # True if a span started on both sides at once and the sides have agreed since.
    agrees = False
    for sentence in pairs:
        for gold_tag, predicted_tag in chain(zip(*sentence, strict=True), [(OUTSIDE, OUTSIDE)]):
            for tag in (gold_tag, predicted_tag):
                if tag not in splits:
                    splits[tag] = split_conlleval_tag(tag)
            gold, predicted = splits[gold_tag], splits[predicted_tag]
            if agrees:
                gold_ends, predicted_ends = _ends(gold_before, gold), _ends(predicted_before, predicted)
                if gold_ends and predicted_ends and gold_before.type == predicted_before.type:
                    num_correct[gold_before.type] += 1
                    agrees = False
                elif gold_ends != predicted_ends or gold.type != predicted.type:
                    agrees = False
            gold_starts, predicted_starts = _starts(gold_before, gold), _starts(predicted_before, predicted)
            agrees |= gold_starts and predicted_starts and gold.type == predicted.type
            num_gold[gold.type] += gold_starts
            num_predicted[predicted.type] += predicted_starts
            gold_before, predicted_before = gold, predicted
    # A tag without a type, whose letter has no rule in the script, starts a span that no O ends.
    if agrees:
        num_correct[gold_before.type] += 1
    return SpanCounts(+num_gold, +num_predicted, num_correct)


def _ends(before: SplitTag, after: SplitTag) -> bool:
    """Return whether a span ends between two tags: `endOfChunk` of conlleval.pl."""
    changes = before.prefix not in (OUTSIDE, ".") and before.type != after.type
    return changes or before.prefix + after.prefix in _ENDS or before.prefix in ("[", "]")


def _starts(before: SplitTag, after: SplitTag) -> bool:
    """Return whether a span starts between two tags: `startOfChunk` of conlleval.pl."""
    changes = after.prefix not in (OUTSIDE, ".") and before.type != after.type
    return changes or before.prefix + after.prefix in _STARTS or after.prefix in ("[", "]")
