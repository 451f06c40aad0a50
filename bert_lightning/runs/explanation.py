"""The results of `Predictor.explain`: values of words, as plain numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class ExplainedWord(NamedTuple):
    """A word and its value."""

    text: str
    part: int
    """the number of its text, from 0"""
    start: int
    """its first character in that text"""
    end: int
    """the first character after it"""
    value: float | None
    """None if the score does not depend on the word, because it was cut off or is in other windows"""


class WeightMap(NamedTuple):
    """The weights between the words of one sequence.

    Attributes:
        words: the number of each of U words among those of the explanation; -1 for a special token.
        tokens: their texts.
        weights: (L, N, U, U) attention of N heads in L blocks, or (L, 1, U, U) rollout after each block. A row holds
            the weights from one word to all words, and sums to 1.
        readout: (U,) the share of each in what the head reads.
    """

    words: Sequence[int]
    tokens: Sequence[str]
    weights: NDArray[np.float32]
    readout: NDArray[np.float64]


@dataclass(frozen=True)
class Explanation:
    """The value of each word for one score of an example.

    Attributes:
        location: the example, as an error names it.
        method: the name of the method.
        target: what is explained, such as a label.
        predicted: what the model predicts.
        score: the score of the target.
        texts: name and text of each part of the example.
        words: the words with their values.
        special_tokens: the value of [CLS], [SEP] and other tokens that are no words.
        baseline_score: integrated gradients: the score of the baseline.
        completeness_error: integrated gradients: how far the values' sum is from the difference of both scores, as a
            share of this difference.
        num_points: integrated gradients: the points of the path.
        maps: attention and rollout, on request: the weights of each sequence.
    """

    location: str
    method: str
    target: str
    predicted: str
    score: float
    texts: Sequence[tuple[str, str]]
    words: Sequence[ExplainedWord]
    special_tokens: float
    baseline_score: float | None = None
    completeness_error: float | None = None
    num_points: int | None = None
    maps: Sequence[WeightMap] = ()

    @property
    def values(self) -> NDArray[np.float64]:
        """(words,) the values; NaN for words that the score does not depend on."""
        return np.array([np.nan if word.value is None else word.value for word in self.words], dtype=np.float64)

    def as_dict(self) -> dict[str, object]:
        """Return everything except the maps as values that JSON can hold."""
        optional = {
            "baseline_score": self.baseline_score,
            "completeness_error": self.completeness_error,
            "num_points": self.num_points,
        }
        return {
            "location": self.location,
            "target": self.target,
            "predicted": self.predicted,
            "score": self.score,
            **{name: value for name, value in optional.items() if value is not None},
            "texts": dict(self.texts),
            "words": [word._asdict() for word in self.words],
            "special_tokens": self.special_tokens,
        }
