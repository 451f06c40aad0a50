"""Which tokens are hidden from the model, and what stands in their place."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bert_lightning.checks import RefusedValue
from bert_lightning.data.loading.randomness import UInt64, uniforms

# Draws of different kinds count from different numbers, beyond any sequence's length.
_SECOND, _THIRD = 1 << 20, 1 << 21
# So many spans are drawn for a sequence before single words fill what is left of its budget.
_NUM_SPAN_DRAWS = 64


class Sequences(NamedTuple):
    """What a masking may look at."""

    candidates: NDArray[np.bool_]
    """(B, S) tokens that may be chosen: real ones that are not special"""
    starts: NDArray[np.bool_]
    """(B, S) candidates that begin a word"""
    lengths: NDArray[np.int64]
    """(B,) real tokens, special ones counted"""
    keys: UInt64
    """(B,) chance of each sequence"""


class Chosen(NamedTuple):
    """What a masking chose."""

    positions: NDArray[np.bool_]
    """(B, S) a subset of the candidates"""
    units: NDArray[np.int64]
    """(B, S) tokens of one number are replaced alike: all by [MASK], all by random tokens, or none"""


@dataclass(frozen=True)
class Masking(ABC):
    """What all maskings have in common: how much is chosen, and what replaces it.

    Attributes:
        rate: share of a sequence's tokens, special ones counted, that is to be predicted; 0.15 in the paper, section
            3.1, as `max(1, round(rate * length))`: `create_pretraining_data.py: create_masked_lm_predictions`.
        final_rate: the rate at the end of training, where it changes, linearly in the samples consumed.
        num_predictions: a fixed number a sequence, in place of the rate.
        max_predictions: at most so many a sequence.
        mask_share: 0.8 of the chosen become [MASK].
        random_share: 0.1 of the chosen become a random token; the rest stays as it is.
        random_tokens: where random tokens come from: the `ordinary` entries of the vocabulary, or `all` of them, the
            special ones too, as published.
    """

    rate: float = 0.15
    final_rate: float | None = None
    num_predictions: int | None = None
    max_predictions: int | None = None
    mask_share: float = 0.8
    random_share: float = 0.1
    random_tokens: Literal["ordinary", "all"] = "ordinary"

    def __post_init__(self) -> None:
        for name in ("rate", "final_rate"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                raise RefusedValue(name, value, "be between 0 and 1")
        for name in ("num_predictions", "max_predictions"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise RefusedValue(name, value, "be at least 1")
        if self.num_predictions is not None and self.final_rate is not None:
            raise ValueError("final_rate does nothing where num_predictions is set")
        if not (min(self.mask_share, self.random_share) >= 0 and self.mask_share + self.random_share <= 1):
            raise ValueError(
                f"mask_share {self.mask_share} and random_share {self.random_share} must be shares of one"
            )

    def wanted(self, sequences: Sequences, progress: float) -> NDArray[np.int64]:
        """(B,) how many tokens are to be chosen, `progress` (0 to 1) into the training."""
        num_candidates = sequences.candidates.sum(axis=1)
        if self.num_predictions is not None:
            wanted = np.full_like(num_candidates, self.num_predictions)
        else:
            rate = self.rate if self.final_rate is None else self.rate + (self.final_rate - self.rate) * progress
            # np.rint rounds half to even, as Python 3's round does in the original.
            wanted = np.maximum(1, np.rint(rate * sequences.lengths)).astype(np.int64)
        if self.max_predictions is not None:
            wanted = np.minimum(wanted, self.max_predictions)
        return np.minimum(wanted, num_candidates)

    @abstractmethod
    def select(self, sequences: Sequences, progress: float = 0.0) -> Chosen:
        """Choose what is to be predicted, `progress` (0 to 1) into the training."""


@dataclass(frozen=True)
class TokenMasking(Masking):
    """Single tokens, as published."""

    def select(self, sequences: Sequences, progress: float = 0.0) -> Chosen:
        """The candidates with the smallest random numbers, as many as the rate asks for."""
        shape = sequences.candidates.shape
        chance = uniforms(sequences.keys[:, None], np.arange(shape[1])[None, :])
        chance[~sequences.candidates] = 2.0
        ranks = chance.argsort(axis=1).argsort(axis=1)
        chosen = ranks < self.wanted(sequences, progress)[:, None]
        return Chosen(chosen, np.broadcast_to(np.arange(shape[1]), shape))


@dataclass(frozen=True)
class WholeWordMasking(Masking):
    """Whole words in random order, none that would exceed the number wanted; `do_whole_word_mask` of the original.

    Each token draws its own replacement, also inside a word, as published. A word never reaches over [SEP].
    """

    def select(self, sequences: Sequences, progress: float = 0.0) -> Chosen:
        """Walk the words in random order until the number is reached."""
        words = _Words(sequences)
        chosen = words.none()
        words.fill(chosen, self.wanted(sequences, progress))
        shape = sequences.candidates.shape
        return Chosen(words.tokens_of(chosen), np.broadcast_to(np.arange(shape[1]), shape))


@dataclass(frozen=True)
class SpanMasking(Masking):
    """Spans of whole words, their lengths geometric; SpanBERT (Joshi et al. 2020), section 3.1.

    All tokens of a span are replaced alike, as there. A span ends early where the number wanted or its part of the
    pair does, one that would overlap another is drawn again, and single words fill what is left.

    Attributes:
        stop_probability: p of the geometric distribution; 0.2.
        max_span: longest span in words; longer draws are drawn again, which is the paper's clipped mean of 3.8.
    """

    stop_probability: float = 0.2
    max_span: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.stop_probability < 1:
            raise RefusedValue("stop_probability", self.stop_probability, "be between 0 and 1")
        if self.max_span < 1:
            raise RefusedValue("max_span", self.max_span, "be at least 1")

    def span_probabilities(self) -> NDArray[np.float64]:
        """(max_span,) of spans of 1, 2, ... words."""
        lengths = np.arange(1, self.max_span + 1)
        weights = self.stop_probability * (1 - self.stop_probability) ** (lengths - 1)
        return weights / weights.sum()

    def select(self, sequences: Sequences, progress: float = 0.0) -> Chosen:
        """Draw spans one after the other, for all sequences at once."""
        chosen, units = _select_spans(sequences, self.wanted(sequences, progress), self.span_probabilities())
        return Chosen(chosen, units)


@dataclass(frozen=True)
class NgramMasking(Masking):
    """N-grams of whole words, P(n) proportional to 1 / n; ALBERT (Lan et al. 2020), section 3.1.

    Each token draws its own replacement, as in ALBERT's code.

    Attributes:
        max_span: longest n-gram in words; 3.
    """

    max_span: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_span < 1:
            raise RefusedValue("max_span", self.max_span, "be at least 1")

    def span_probabilities(self) -> NDArray[np.float64]:
        """(max_span,) of spans of 1, 2, ... words."""
        weights = 1 / np.arange(1, self.max_span + 1)
        return weights / weights.sum()

    def select(self, sequences: Sequences, progress: float = 0.0) -> Chosen:
        """Draw n-grams one after the other, for all sequences at once."""
        chosen, _ = _select_spans(sequences, self.wanted(sequences, progress), self.span_probabilities())
        return Chosen(chosen, np.broadcast_to(np.arange(chosen.shape[1]), chosen.shape))


MASKINGS: dict[str, type[Masking]] = {
    "token": TokenMasking,
    "whole-word": WholeWordMasking,
    "span": SpanMasking,
    "n-gram": NgramMasking,
}


class _Words:
    """The words of each sequence, numbered from 0 in order; W is the most words of any sequence."""

    def __init__(self, sequences: Sequences) -> None:
        self.sequences = sequences
        # Which word a candidate belongs to.
        self.of_token = sequences.starts.cumsum(axis=1) - 1
        self.counts = sequences.starts.sum(axis=1)
        self.num_words = int(self.counts.max(initial=0))
        rows = np.arange(len(self.counts))[:, None]
        flat = (rows * self.num_words + self.of_token)[sequences.candidates]
        shape = (len(self.counts), self.num_words)
        # (B, W) tokens of each word; 0 where there is none.
        self.lengths = np.bincount(flat, minlength=shape[0] * shape[1]).reshape(shape)

    def none(self) -> NDArray[np.bool_]:
        """(B, W) no word chosen."""
        return np.zeros(self.lengths.shape, dtype=bool)

    def tokens_of(self, words: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """(B, W) words -> (B, S) their tokens."""
        if not self.num_words:
            return np.zeros_like(self.sequences.candidates)
        of_token = np.maximum(self.of_token, 0)
        return np.take_along_axis(words, of_token, axis=1) & self.sequences.candidates

    def fill(self, chosen: NDArray[np.bool_], wanted: NDArray[np.int64]) -> None:
        """Choose words in random order, in place, leaving out those that would exceed what is wanted."""
        if not self.num_words:
            return
        chance = uniforms(self.sequences.keys[:, None], np.arange(self.num_words)[None, :])
        chance[(self.lengths == 0) | chosen] = 2.0
        order = chance.argsort(axis=1)
        rows = np.arange(len(order))
        total = (self.lengths * chosen).sum(axis=1)
        for column in order.T:
            length = self.lengths[rows, column]
            taken = (total + length <= wanted) & (length > 0) & ~chosen[rows, column]
            chosen[rows[taken], column[taken]] = True
            total += length * taken
            if (total >= wanted).all():
                break


def _select_spans(
    sequences: Sequences, wanted: NDArray[np.int64], probabilities: NDArray[np.float64]
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """(B, S) tokens of random spans of words, and the number of each token's span, or of its word outside spans."""
    words = _Words(sequences)
    chosen = words.none()
    num_rows, num_words = chosen.shape
    spans = np.broadcast_to(np.arange(num_words), chosen.shape).copy()
    if num_words:
        cumulative = np.cumsum(probabilities)
        part_ends = _part_ends(words)
        ends = np.concatenate([np.zeros((num_rows, 1), np.int64), words.lengths.cumsum(axis=1)], axis=1)
        rows = np.arange(num_rows)
        total = np.zeros(num_rows, dtype=np.int64)
        for draw in range(_NUM_SPAN_DRAWS):
            length = 1 + np.searchsorted(cumulative, uniforms(sequences.keys, np.full(num_rows, _SECOND + draw)))
            length = np.minimum(length, len(probabilities))
            start = (uniforms(sequences.keys, np.full(num_rows, _THIRD + draw)) * words.counts).astype(np.int64)
            # A span ends with its part of the pair, and with the last word that the number wanted has room for.
            fits = (ends[:, 1:] <= (ends[rows, start] + wanted - total)[:, None]).sum(axis=1)
            stop = np.minimum(np.minimum(start + length, part_ends[rows, start]), fits)
            size = ends[rows, np.maximum(stop, start)] - ends[rows, start]
            taken = stop > start
            columns = np.arange(num_words)[None, :]
            span = (columns >= start[:, None]) & (columns < stop[:, None])
            # Spans do not touch, or two would look like one.
            near = (columns >= start[:, None] - 1) & (columns <= stop[:, None])
            taken &= ~(near & chosen).any(axis=1)
            span &= taken[:, None]
            chosen |= span
            spans = np.where(span, start[:, None], spans)
            total += size * taken
            if (total >= wanted).all():
                break
        words.fill(chosen, wanted)
    units = np.take_along_axis(spans, np.maximum(words.of_token, 0), axis=1) if num_words else words.of_token
    return words.tokens_of(chosen), units


def _part_ends(words: _Words) -> NDArray[np.int64]:
    """(B, W) behind the last word of each word's part of the pair: a part ends where a token is no candidate."""
    candidates = words.sequences.candidates
    before = np.concatenate([np.zeros((len(candidates), 1), bool), candidates[:, :-1]], axis=1)
    runs = (candidates & ~before).cumsum(axis=1)
    part = np.full(words.lengths.shape, candidates.shape[1] + 1, dtype=np.int64)
    rows, columns = np.nonzero(words.sequences.starts)
    part[rows, words.of_token[rows, columns]] = runs[rows, columns]
    return (part[:, None, :] <= part[:, :, None]).sum(axis=2)


def word_starts(candidates: NDArray[np.bool_], continues: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(B, S) candidates, (B, S) pieces that go on with a word (`##`) -> (B, S) candidates that begin one.

    A piece behind a token that is no candidate begins a word, so that none reaches over [SEP].
    """
    before = np.zeros_like(candidates)
    before[:, 1:] = candidates[:, :-1]
    return candidates & (~continues | ~before)


def replace(
    input_ids: NDArray[np.int64],
    chosen: Chosen,
    masking: Masking,
    mask_id: int,
    random_ids: NDArray[np.int64],
    keys: UInt64,
) -> NDArray[np.int64]:
    """(B, S) ids -> (B, S) ids in which each chosen token, or unit, draws: [MASK], a random token, or as it was.

    Random tokens come from `random_ids`, each token its own.
    """
    kind = uniforms(keys[:, None], chosen.units)
    positions = np.arange(input_ids.shape[1])[None, :]
    pick = uniforms(keys[:, None], positions + _SECOND)
    drawn = random_ids[(pick * len(random_ids)).astype(np.int64)]
    replaced = np.where(kind < masking.mask_share, mask_id, input_ids)
    is_random = (kind >= masking.mask_share) & (kind < masking.mask_share + masking.random_share)
    replaced = np.where(is_random, drawn, replaced)
    return np.where(chosen.positions, replaced, input_ids)
