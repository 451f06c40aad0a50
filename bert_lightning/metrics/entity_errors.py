"""Entity errors by kind: wrong boundaries, wrong type, both, missed and spurious."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bert_lightning.metrics.entities import paired_sentences
from bert_lightning.metrics.spans import Span, spans_of


class EntityCase(NamedTuple):
    """A gold span, a predicted one, or the pair of them.

    Attributes:
        sentence: its number, from 0.
        gold: the gold span; None if the predicted span has no counterpart.
        predicted: the predicted span; None if the gold span is missed.
    """

    sentence: int
    gold: Span | None
    predicted: Span | None


@dataclass(frozen=True)
class EntityErrors:
    """All gold and predicted spans of a set of sentences, each in exactly one case.

    Attributes:
        correct: right type and boundaries.
        boundary: right type; the spans overlap, but their boundaries differ.
        type: right boundaries, another type.
        both: another type; the spans overlap, but their boundaries differ.
        missed: gold without a prediction.
        spurious: predicted without gold.
    """

    correct: list[EntityCase]
    boundary: list[EntityCase]
    type: list[EntityCase]
    both: list[EntityCase]
    missed: list[EntityCase]
    spurious: list[EntityCase]

    @property
    def counts(self) -> dict[str, int]:
        """The number of cases of each kind, by its name."""
        return {kind: len(cases) for kind, cases in vars(self).items()}


def entity_errors(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> EntityErrors:
    """Pair the spans of gold and predicted tags (`spans_of`), and sort the pairs by kind of error.

    Spans of equal boundaries overlap no others, so they are always paired. Other pairs are made in order of their
    overlap in tokens, the largest first. Among equal overlaps, pairs of one type come first, then those that come
    first in the sentence.

    Raises:
        InputError: the sentences do not match in number or length.
        ValueError: a tag has an unknown prefix.

    >>> errors = entity_errors([["B-PER", "I-PER", "O"]], [["B-PER", "O", "O"]])
    >>> errors.boundary[0].gold
    Span(type='PER', start=0, end=2)
    """
    errors = EntityErrors([], [], [], [], [], [])
    for number, (gold_tags, predicted_tags) in enumerate(paired_sentences(gold, predicted)):
        # Dictionaries as ordered sets.
        unpaired_gold, unpaired_predicted = (
            dict.fromkeys(spans_of(gold_tags)),
            dict.fromkeys(spans_of(predicted_tags)),
        )
        for a, b in _overlapping_pairs(unpaired_gold, unpaired_predicted):
            if a in unpaired_gold and b in unpaired_predicted:
                del unpaired_gold[a], unpaired_predicted[b]
                same_boundaries = (a.start, a.end) == (b.start, b.end)
                if a.type == b.type:
                    cases = errors.correct if same_boundaries else errors.boundary
                else:
                    cases = errors.type if same_boundaries else errors.both
                cases.append(EntityCase(number, a, b))
        errors.missed.extend(EntityCase(number, a, None) for a in unpaired_gold)
        errors.spurious.extend(EntityCase(number, None, b) for b in unpaired_predicted)
    return errors


def _overlapping_pairs(gold: Iterable[Span], predicted: Iterable[Span]) -> list[tuple[Span, Span]]:
    """Return all pairs that overlap, the best first.

    Spans of one side never overlap, so there are at most as many pairs as spans on both sides.
    """
    pairs = [(a, b) for a in gold for b in predicted if a.start < b.end and b.start < a.end]

    def rank(pair: tuple[Span, Span]) -> tuple[int, bool, int, int]:
        a, b = pair
        overlap = min(a.end, b.end) - max(a.start, b.start)
        return -overlap, a.type != b.type, a.start, b.start

    return sorted(pairs, key=rank)
