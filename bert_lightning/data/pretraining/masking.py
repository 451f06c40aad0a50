"""Masking: which tokens the model has to predict, and what replaces them in its input.

BERT (Devlin et al. 2019, arXiv:1810.04805, section 3.1) selects 15 % of the tokens. Of these 80 % become [MASK], 10 %
become a random token, and 10 % stay as they are. The model predicts all of them.

Masking has two steps. `Masking.select` selects tokens of a micro-batch, and `apply_masks` replaces them. Both depend
only on the text, on one 64-bit key per sequence and, with `final_rate`, on the progress of training. A sequence
therefore gets the same masks in every process.

>>> ids = np.array([[101, 7, 8, 9, 102]])  # [CLS] three tokens [SEP]
>>> candidates = np.array([[False, True, True, True, False]])
>>> sequences = Sequences(candidates, candidates, lengths=np.array([5]), keys=np.array([42], dtype=np.uint64))
>>> masking = TokenMasking(num_predictions=3, mask_share=1.0, random_share=0.0)
>>> selection = masking.select(sequences)
>>> apply_masks(ids, selection, masking, mask_id=103, random_ids=np.array([7, 8, 9]), keys=~sequences.keys)
array([[101, 103, 103, 103, 102]])
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bert_lightning.checks import RefusedValue, require_at_least
from bert_lightning.data.loading.randomness import UInt64, uniforms

# A sequence has one key. Replacement uses its complement (`~keys`), so both may count from the same numbers.
# Tokens and words are counted from 0. Other draws count from these numbers, which exceed the length of any sequence.
_SPAN_LENGTHS, _SPAN_STARTS = 1 << 20, 1 << 21
_RANDOM_TOKENS = 1 << 20
# Number of spans drawn per sequence. Single words are then selected until the number of tokens is reached.
_NUM_SPAN_DRAWS = 64
# Uniform numbers are below 1, so tokens and words that get this number instead come last.
_LAST = 2.0


class Sequences(NamedTuple):
    """The properties of a micro-batch that a masking may use."""

    candidates: NDArray[np.bool_]
    """(B, S) tokens that may be selected: no padding, no special tokens"""
    starts: NDArray[np.bool_]
    """(B, S) candidates that begin a word"""
    lengths: NDArray[np.int64]
    """(B,) tokens per sequence, special tokens included and padding excluded"""
    keys: UInt64
    """(B,) the key of all random numbers of a sequence"""


class Selection(NamedTuple):
    """The tokens that a masking selected."""

    positions: NDArray[np.bool_]
    """(B, S) selected tokens, a subset of the candidates"""
    units: NDArray[np.int64]
    """(B, S) tokens with equal numbers are replaced alike: all by [MASK], all by random tokens, or none"""


@dataclass(frozen=True)
class Masking(ABC):
    """Base of all maskings: how many tokens are selected, and what replaces them.

    Attributes:
        rate: fraction of a sequence's tokens to predict, special tokens included in the count; 0.15 in the paper,
            section 3.1. The number is `max(1, round(rate * length))`, as in `create_pretraining_data.py:
            create_masked_lm_predictions`.
        final_rate: the rate at the end of training; if set, the rate changes linearly with the samples consumed.
        num_predictions: a fixed number of predictions per sequence, in place of the rate.
        max_predictions: limit of predictions per sequence.
        mask_share: fraction of the selected tokens that become [MASK]; 0.8 in the paper.
        random_share: fraction of the selected tokens that become a random token; 0.1 in the paper. The rest stays
            as it is.
        random_tokens: the vocabulary entries that random tokens are drawn from: the `ordinary` ones, or `all` of
            them, special tokens included, as published.
    """

    rate: float = 0.15
    final_rate: float | None = None
    num_predictions: int | None = None
    max_predictions: int | None = None
    mask_share: float = 0.8
    random_share: float = 0.1
    random_tokens: Literal["ordinary", "all"] = "ordinary"

    def __post_init__(self) -> None:
        _require_probability("rate", self.rate)
        if self.final_rate is not None:
            _require_probability("final_rate", self.final_rate)
        require_at_least(self, 1, "num_predictions", "max_predictions")
        if self.num_predictions is not None and self.final_rate is not None:
            raise ValueError("final_rate has no effect if num_predictions is set: remove one of them")
        if not (min(self.mask_share, self.random_share) >= 0 and self.mask_share + self.random_share <= 1):
            raise ValueError(
                f"mask_share is {self.mask_share} and random_share is {self.random_share}; both must be at least 0 "
                "and their sum at most 1"
            )

    def num_to_select(self, sequences: Sequences, progress: float) -> NDArray[np.int64]:
        """Return how many tokens of each sequence to select, (B,); `progress` through training is from 0 to 1."""
        num_candidates = sequences.candidates.sum(axis=1)
        if self.num_predictions is not None:
            number = np.full_like(num_candidates, self.num_predictions)
        else:
            rate = self.rate if self.final_rate is None else self.rate + (self.final_rate - self.rate) * progress
            # np.rint rounds half to even, as Python 3's round does in the original.
            number = np.maximum(1, np.rint(rate * sequences.lengths)).astype(np.int64)
        if self.max_predictions is not None:
            number = np.minimum(number, self.max_predictions)
        return np.minimum(number, num_candidates)

    @abstractmethod
    def select(self, sequences: Sequences, progress: float = 0.0) -> Selection:
        """Select the tokens to predict; `progress` through training is from 0 to 1."""


@dataclass(frozen=True)
class TokenMasking(Masking):
    """Masking of single tokens, as published."""

    def select(self, sequences: Sequences, progress: float = 0.0) -> Selection:
        """Select the candidates with the smallest random numbers."""
        shape = sequences.candidates.shape
        chance = uniforms(sequences.keys[:, None], np.arange(shape[1])[None, :])
        chance[~sequences.candidates] = _LAST
        ranks = chance.argsort(axis=1).argsort(axis=1)
        return Selection(ranks < self.num_to_select(sequences, progress)[:, None], _one_unit_per_token(shape))


@dataclass(frozen=True)
class WholeWordMasking(Masking):
    """Masking of whole words, as with `do_whole_word_mask` of the original.

    Words are selected in random order. A word that would exceed the number of tokens to select is left out. The
    replacement is drawn for each token separately, also inside a word, as published. A word never extends across
    [SEP].
    """

    def select(self, sequences: Sequences, progress: float = 0.0) -> Selection:
        """Select words in random order until the number is reached."""
        words = _Words(sequences)
        selected = words.none_selected()
        words.fill(selected, self.num_to_select(sequences, progress))
        return Selection(words.tokens_of(selected), _one_unit_per_token(sequences.candidates.shape))


@dataclass(frozen=True)
class SpanMasking(Masking):
    """Masking of whole-word spans of geometric length; SpanBERT (Joshi et al. 2020, arXiv:1907.10529), section 3.1.

    All tokens of a span are replaced alike, as in SpanBERT. A span ends early at the end of its segment, or as soon
    as the number of tokens to select is reached. A span that would touch or overlap another one is drawn again. At
    the end, single words are selected until the number is reached.

    Attributes:
        stop_probability: p of the geometric distribution; 0.2 in SpanBERT.
        max_span: longest span in words; longer draws are drawn again, which gives SpanBERT's mean of 3.8 words.
    """

    stop_probability: float = 0.2
    max_span: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_probability("stop_probability", self.stop_probability)
        require_at_least(self, 1, "max_span")

    def span_probabilities(self) -> NDArray[np.float64]:
        """Return the probability of spans of 1, 2, ... words, (max_span,).

        >>> SpanMasking(max_span=3).span_probabilities().round(2)
        array([0.41, 0.33, 0.26])
        """
        lengths = np.arange(1, self.max_span + 1)
        weights = self.stop_probability * (1 - self.stop_probability) ** (lengths - 1)
        return weights / weights.sum()

    def select(self, sequences: Sequences, progress: float = 0.0) -> Selection:
        """Select one random span after the other, in all sequences at once."""
        return _select_spans(sequences, self.num_to_select(sequences, progress), self.span_probabilities())


@dataclass(frozen=True)
class NgramMasking(Masking):
    """Masking of n-grams of words, P(n) ~ 1 / n; ALBERT (Lan et al. 2020, arXiv:1909.11942), section 3.1.

    The replacement is drawn for each token separately, as in ALBERT's code.

    Attributes:
        max_span: longest n-gram in words; 3 in ALBERT.
    """

    max_span: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, 1, "max_span")

    def span_probabilities(self) -> NDArray[np.float64]:
        """Return the probability of n-grams of 1, 2, ... words, (max_span,).

        >>> NgramMasking(max_span=2).span_probabilities().round(2)
        array([0.67, 0.33])
        """
        weights = 1 / np.arange(1, self.max_span + 1)
        return weights / weights.sum()

    def select(self, sequences: Sequences, progress: float = 0.0) -> Selection:
        """Select one random n-gram after the other, in all sequences at once."""
        selection = _select_spans(sequences, self.num_to_select(sequences, progress), self.span_probabilities())
        return selection._replace(units=_one_unit_per_token(sequences.candidates.shape))


MASKINGS: dict[str, type[Masking]] = {
    "token": TokenMasking,
    "whole-word": WholeWordMasking,
    "span": SpanMasking,
    "n-gram": NgramMasking,
}


def apply_masks(
    input_ids: NDArray[np.int64],
    selection: Selection,
    masking: Masking,
    mask_id: int,
    random_ids: NDArray[np.int64],
    keys: UInt64,
) -> NDArray[np.int64]:
    """Replace each selected token by [MASK] or a random token, or keep it, with the probabilities of `masking`.

    Tokens of one unit are replaced alike, but each random token is drawn separately.

    Args:
        input_ids: (B, S) the original tokens.
        selection: the tokens to predict.
        masking: gives `mask_share` and `random_share`.
        mask_id: id of [MASK].
        random_ids: (N,) ids that random tokens are drawn from.
        keys: (B,) keys of the random numbers; they differ from those of the selection.

    Returns:
        (B, S) the ids that the model reads.
    """
    outcome = uniforms(keys[:, None], selection.units)
    becomes_mask = outcome < masking.mask_share
    becomes_random = ~becomes_mask & (outcome < masking.mask_share + masking.random_share)
    position = np.arange(input_ids.shape[1])[None, :]
    chance = uniforms(keys[:, None], position + _RANDOM_TOKENS)
    random_tokens = random_ids[(chance * len(random_ids)).astype(np.int64)]
    replaced = np.where(becomes_mask, mask_id, np.where(becomes_random, random_tokens, input_ids))
    return np.where(selection.positions, replaced, input_ids)


def word_starts(candidates: NDArray[np.bool_], continues: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the candidates that begin a word.

    A piece that continues a word begins one if the token before it is no candidate. So no word extends across [SEP].

    Args:
        candidates: (B, S) tokens that may be selected.
        continues: (B, S) pieces that continue a word, which `##` marks in the vocabulary.

    >>> candidates = np.array([[False, True, True, True, False]])  # [CLS] un ##able we [SEP]
    >>> word_starts(candidates, np.array([[False, False, True, False, False]]))
    array([[False,  True, False,  True, False]])
    """
    follows_candidate = np.zeros_like(candidates)
    follows_candidate[:, 1:] = candidates[:, :-1]
    return candidates & (~continues | ~follows_candidate)


def _require_probability(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise RefusedValue(name, value, "be more than 0 and less than 1")


def _one_unit_per_token(shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Return (B, S) units, one per token, so that the replacement is drawn for each token separately."""
    return np.broadcast_to(np.arange(shape[1]), shape)


class _Words:
    """The words of each sequence, numbered from 0; W is the largest number of words in a sequence.

    Attributes:
        sequences: the micro-batch.
        of_token: (B, S) the word of each candidate; meaningless for other tokens.
        counts: (B,) words per sequence.
        lengths: (B, W) tokens per word; 0 beyond the last word of a sequence.
    """

    def __init__(self, sequences: Sequences) -> None:
        self.sequences = sequences
        self.of_token = sequences.starts.cumsum(axis=1) - 1
        self.counts = sequences.starts.sum(axis=1)
        num_sequences, num_words = len(self.counts), int(self.counts.max(initial=0))
        flat = (np.arange(num_sequences)[:, None] * num_words + self.of_token)[sequences.candidates]
        self.lengths = np.bincount(flat, minlength=num_sequences * num_words).reshape(num_sequences, num_words)

    def none_selected(self) -> NDArray[np.bool_]:
        """Return a selection (B, W) that holds no word."""
        return np.zeros(self.lengths.shape, dtype=bool)

    def tokens_of(self, words: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return the tokens (B, S) of selected words (B, W)."""
        if not words.size:
            return np.zeros_like(self.sequences.candidates)
        return np.take_along_axis(words, np.maximum(self.of_token, 0), axis=1) & self.sequences.candidates

    def fill(self, selected: NDArray[np.bool_], num_to_select: NDArray[np.int64]) -> None:
        """Select more words in random order, in place, except those that would exceed the number of tokens."""
        num_sequences, num_words = selected.shape
        chance = uniforms(self.sequences.keys[:, None], np.arange(num_words)[None, :])
        chance[(self.lengths == 0) | selected] = _LAST
        every = np.arange(num_sequences)
        num_selected = (self.lengths * selected).sum(axis=1)
        # One word of each sequence at a time.
        for word in chance.argsort(axis=1).T:
            length = self.lengths[every, word]
            fits = (num_selected + length <= num_to_select) & (length > 0) & ~selected[every, word]
            selected[every[fits], word[fits]] = True
            num_selected += length * fits
            if (num_selected >= num_to_select).all():
                break

    def segment_ends(self) -> NDArray[np.int64]:
        """Return the number (B, W) of the word after the last one of each word's segment.

        A segment ends at a token that is no candidate.
        """
        candidates = self.sequences.candidates
        before = np.concatenate([np.zeros((len(candidates), 1), bool), candidates[:, :-1]], axis=1)
        of_token = (candidates & ~before).cumsum(axis=1)
        # Words that do not exist get a number beyond that of any segment.
        of_word = np.full(self.lengths.shape, candidates.shape[1] + 1, dtype=np.int64)
        sequence, position = np.nonzero(self.sequences.starts)
        of_word[sequence, self.of_token[sequence, position]] = of_token[sequence, position]
        return (of_word[:, None, :] <= of_word[:, :, None]).sum(axis=2)


def _select_spans(
    sequences: Sequences, num_to_select: NDArray[np.int64], probabilities: NDArray[np.float64]
) -> Selection:
    """Select random spans of whole words, then single words until the number of tokens is reached.

    Units are the spans, and the words outside them.

    Args:
        sequences: the micro-batch.
        num_to_select: (B,) tokens to select per sequence.
        probabilities: of spans of 1, 2, ... words.
    """
    words = _Words(sequences)
    selected = words.none_selected()
    num_sequences, num_words = selected.shape
    if not num_words:
        return Selection(words.tokens_of(selected), words.of_token)
    # (B, W) the first word of each word's span, or the word itself.
    span_of_word = np.broadcast_to(np.arange(num_words), selected.shape).copy()
    cumulative = np.cumsum(probabilities)
    segment_ends = words.segment_ends()
    # (B, W + 1) tokens before each word.
    tokens_before = np.concatenate([np.zeros((num_sequences, 1), np.int64), words.lengths.cumsum(axis=1)], axis=1)
    every = np.arange(num_sequences)
    word = np.arange(num_words)[None, :]
    num_selected = np.zeros(num_sequences, dtype=np.int64)
    for draw in range(_NUM_SPAN_DRAWS):
        chance = uniforms(sequences.keys, np.full(num_sequences, _SPAN_LENGTHS + draw))
        length = np.minimum(1 + np.searchsorted(cumulative, chance), len(probabilities))
        chance = uniforms(sequences.keys, np.full(num_sequences, _SPAN_STARTS + draw))
        start = (chance * words.counts).astype(np.int64)
        # The first word that exceeds the number of tokens left, counted from the start of the span.
        last_token = tokens_before[every, start] + num_to_select - num_selected
        too_far = (tokens_before[:, 1:] <= last_token[:, None]).sum(axis=1)
        stop = np.minimum(np.minimum(start + length, segment_ends[every, start]), too_far)
        # Spans must not touch, or two would look like one.
        near = (word >= start[:, None] - 1) & (word <= stop[:, None])
        accepted = (stop > start) & ~(near & selected).any(axis=1)
        span = (word >= start[:, None]) & (word < stop[:, None]) & accepted[:, None]
        selected |= span
        span_of_word = np.where(span, start[:, None], span_of_word)
        size = tokens_before[every, np.maximum(stop, start)] - tokens_before[every, start]
        num_selected += size * accepted
        if (num_selected >= num_to_select).all():
            break
    words.fill(selected, num_to_select)
    units = np.take_along_axis(span_of_word, np.maximum(words.of_token, 0), axis=1)
    return Selection(words.tokens_of(selected), units)
