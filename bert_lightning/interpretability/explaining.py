"""Explanations of single predictions, by every method and for every task."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from lightning.fabric.utilities import move_data_to_device
from numpy.typing import NDArray
from torch import Tensor

from bert_lightning.checks import RefusedValue, nearest, require_between
from bert_lightning.data.loading.batching import Batch
from bert_lightning.data.reading.tables import Row
from bert_lightning.errors import InputError
from bert_lightning.interpretability.attention import Units, attention_weights, rollout
from bert_lightning.interpretability.attribution import (
    NUM_POINTS,
    Integrated,
    gradient_x_input,
    integrated_gradients,
    occlusion,
    per_word,
)
from bert_lightning.model import BertEncoder
from bert_lightning.runs.explanation import ExplainedWord, Explanation, WeightMap
from bert_lightning.tasks.explained import Explained
from bert_lightning.tasks.inference import evaluating
from bert_lightning.tasks.task import Task
from bert_lightning.text.wordpiece import MASK, PAD, UNKNOWN
from bert_lightning.wording import count, one_of

REPLACEMENTS = (MASK, PAD, UNKNOWN)
"""Tokens that may stand for a word that is absent."""
LARGEST_ERROR = 0.05
"""Integrated gradients that miss more of the difference of scores are refused."""
# With this number of points or more, an error that is too large is final.
_MOST_POINTS = 1024
# Sizes of one pass, which bound its memory: tokens, and the squared lengths summed.
_MOST_TOKENS, _MOST_PAIRS = 1 << 12, 1 << 20


# The options that only some methods use.
_METHODS_WITH = {
    "num_points": ("integrated-gradients",),
    "replacement": ("integrated-gradients", "occlusion"),
    "maps": ("attention", "rollout"),
}


class NotExplainedError(InputError):
    """Error of one input that cannot be explained, although others of the same model can.

    It has no words, or integrated gradients do not sum to the difference of the scores.
    """


@dataclass(frozen=True)
class ExplanationSettings:
    """How a prediction is explained.

    Attributes:
        method: the name of the method, one of `METHODS`.
        target: what is explained; None for the prediction.
        num_points: integrated gradients: the points of the path. They are doubled up to 1,024 while the values miss
            more than 5 % of the difference.
        replacement: integrated gradients and occlusion: the token that stands for an absent word.
        maps: attention and rollout: whether explanations hold the weights between all words.

    Raises:
        InputError: there is no such method, or the target is no text.
        RefusedValue: the number of points or the replacement is not allowed.
    """

    method: str = "integrated-gradients"
    target: str | None = None
    num_points: int = NUM_POINTS
    replacement: str = MASK
    maps: bool = False

    def __post_init__(self) -> None:
        require_between(self, 1, _MOST_POINTS, "num_points")
        if self.target is not None and not isinstance(self.target, str):
            raise InputError(f"target is {self.target!r}, which is no text: write '{self.target}'")
        if self.method not in METHODS:
            raise InputError(f"method is {self.method!r}, which does not exist{nearest(str(self.method), METHODS)}")
        if self.replacement not in REPLACEMENTS:
            raise RefusedValue("replacement", self.replacement, f"be {one_of(REPLACEMENTS)}")


def chosen_settings(method: str, target: str | None, **options: Any) -> ExplanationSettings:
    """Return settings with the options that are not None. The others have their defaults.

    Raises:
        InputError: as `ExplanationSettings`.
        RefusedValue: the method does not use an option, or as `ExplanationSettings`.
    """
    given = {name: value for name, value in options.items() if value is not None}
    settings = ExplanationSettings(method, target, **given)
    for name, value in given.items():
        if method not in _METHODS_WITH[name]:
            owners = one_of(_METHODS_WITH[name])
            raise RefusedValue(name, value, f"be left out with the method {method}: it belongs to {owners}")
    return settings


class Values(NamedTuple):
    """The values that a method computes for a score.

    Attributes:
        positions: (n, S) the value of each position; None if `words` has them.
        words: (words,) the value of each word.
        integrated: the result of integrated gradients.
        maps: the weights of each sequence.
    """

    positions: Tensor | None = None
    words: Tensor | None = None
    integrated: Integrated | None = None
    num_points: int | None = None
    maps: tuple[WeightMap, ...] = ()


class ScoredExample:
    """A score of one example, as a function of embeddings or of ids.

    Attributes:
        task: the model with its tokenizer.
        explained: the score and its words.
        batch: the n sequences of S tokens, on the model's device.
        places: (n, S) the number of the word at each position.
        encoder: the model's encoder.
        rows: how many copies are computed at once.
    """

    def __init__(self, task: Task, explained: Explained) -> None:
        self.task, self.explained = task, explained
        self.batch: Batch = move_data_to_device(explained.batch, task.device)
        self.places = torch.from_numpy(explained.places).to(task.device)
        self.encoder: BertEncoder = task.model.backbone
        num_sequences, length = self.places.shape
        fitting = min(_MOST_TOKENS // (num_sequences * length), _MOST_PAIRS // (num_sequences * length**2))
        self.rows = max(1, fitting)

    def embeddings(self, ids: Tensor) -> Tensor:
        """Return the input (n, S, H) of the first block for ids (n, S)."""
        with torch.no_grad():
            return self.encoder.embed(ids, self.batch["token_type_ids"])

    def without_words(self, replacement: str) -> Tensor:
        """Return the ids (n, S) with a token in the place of every piece of a word."""
        return self.batch["input_ids"].masked_fill(self.places >= 0, self.id_of(replacement))

    def id_of(self, token: str) -> int:
        """Return the id of a special token."""
        tokenizer = self.task.tokenizer
        return {MASK: tokenizer.mask_id, PAD: tokenizer.pad_id, UNKNOWN: tokenizer.unknown_id}[token]

    def of_ids(self, ids: Tensor) -> Tensor:
        """Score ids, (k, n, S) -> (k,)."""
        return self.explained.score(self._copies(ids))

    def of_embeddings(self, points: Tensor) -> Tensor:
        """Score inputs of the first block, (k, n, S, H) -> (k,)."""
        ids = self.batch["input_ids"]
        added = points - self.embeddings(ids)
        with self.encoder.perturbed(added):
            return self.explained.score(self._copies(ids.expand(len(points), -1, -1)))

    def _copies(self, ids: Tensor) -> Batch:
        """Return as many copies of the batch as there are ids (k, n, S), one after the other."""
        size, num_copies = ids.shape[1], len(ids)
        copies = {
            name: value.repeat(num_copies, *[1] * (value.dim() - 1))
            for name, value in self.batch.items()
            if isinstance(value, Tensor) and len(value) == size
        }
        return cast(Batch, {**self.batch, **copies, "input_ids": ids.flatten(0, 1)})


def _integrated_gradients(example: ScoredExample, settings: ExplanationSettings) -> Values:
    inputs = example.embeddings(example.batch["input_ids"])
    baseline = example.embeddings(example.without_words(settings.replacement))
    num_points = settings.num_points
    while True:
        found = integrated_gradients(example.of_embeddings, inputs, baseline, num_points, example.rows)
        if found.error <= LARGEST_ERROR:
            return Values(found.values.sum(-1), integrated=found, num_points=num_points)
        if num_points >= _MOST_POINTS:
            raise NotExplainedError(
                f"{example.explained.location}: integrated gradients miss {found.error:.1%} of the difference of "
                f"scores with {count(num_points, 'point')}, and more than {LARGEST_ERROR:.0%} is refused: use "
                "occlusion"
            )
        num_points = min(2 * num_points, _MOST_POINTS)


def _gradient_x_input(example: ScoredExample, settings: ExplanationSettings) -> Values:
    return Values(gradient_x_input(example.of_embeddings, example.embeddings(example.batch["input_ids"])).sum(-1))


def _occlusion(example: ScoredExample, settings: ExplanationSettings) -> Values:
    replacement = example.id_of(settings.replacement)
    num_words = len(example.explained.words)
    read = np.unique(example.explained.places[example.explained.places >= 0])
    # Only words that the score depends on are computed, under numbers without gaps.
    numbers = torch.full((num_words + 1,), -1, device=example.places.device)
    numbers[torch.from_numpy(read).to(numbers.device)] = torch.arange(len(read), device=numbers.device)
    places = numbers[example.places]
    falls = occlusion(example.of_ids, example.batch["input_ids"], places, len(read), replacement, example.rows)
    words = falls.new_zeros(num_words)
    words[torch.from_numpy(read).to(words.device)] = falls
    return Values(words=words)


def _attention(example: ScoredExample, settings: ExplanationSettings) -> Values:
    return _of_weights(example, settings, lambda weights: weights)


def _rollout(example: ScoredExample, settings: ExplanationSettings) -> Values:
    return _of_weights(example, settings, lambda weights: rollout(weights)[:, None], last=True)


def _of_weights(
    example: ScoredExample, settings: ExplanationSettings, form: Callable[[Tensor], Tensor], *, last: bool = False
) -> Values:
    """Return the weights from the positions that the head reads to all others.

    Args:
        example: the score.
        settings: say whether the maps are returned.
        form: attention (L, N, S, S) -> weights (L, N', S, S).
        last: whether those of the last block count, and not the mean over all blocks and heads.
    """
    batch, explained = example.batch, example.explained
    mask = batch.get("attention_mask")
    values = torch.zeros(example.places.shape, device=example.places.device)
    maps = []
    for number, readout in enumerate(explained.readout):
        if not readout.any():
            continue
        one = slice(number, number + 1)
        ids, types, kept = batch["input_ids"][one], batch["token_type_ids"][one], None if mask is None else mask[one]
        weights = form(attention_weights(example.encoder, ids, types, kept)[0])
        chosen = (weights[-1:] if last else weights).mean((0, 1))
        values[number] = torch.from_numpy(readout).to(chosen) @ chosen
        if settings.maps:
            num_tokens = example.places.shape[1] if mask is None else int(mask[number].sum())
            maps.append(_map_of(example, number, num_tokens, weights))
    return Values(values, maps=tuple(maps))


def _map_of(example: ScoredExample, number: int, num_tokens: int, weights: Tensor) -> WeightMap:
    units = Units.of(example.places[number], num_tokens)
    words, entries = example.explained.words, example.task.tokenizer.entries
    ids = example.batch["input_ids"][number].tolist()
    tokens = [
        entries[ids[first]] if word < 0 else words[word].text
        for word, first in zip(units.words, units.firsts, strict=True)
    ]
    readout = units.membership.cpu().double().numpy() @ example.explained.readout[number]
    return WeightMap(units.words, tokens, units.between(weights).cpu().numpy(), readout)


METHODS: dict[str, Callable[[ScoredExample, ExplanationSettings], Values]] = {
    "attention": _attention,
    "rollout": _rollout,
    "gradient-x-input": _gradient_x_input,
    "integrated-gradients": _integrated_gradients,
    "occlusion": _occlusion,
}
"""The methods by name."""


def explain(task: Task, row: Row, settings: ExplanationSettings) -> Iterator[Explanation]:
    """Yield the explanations of a raw input: one, or one for each entity or mask.

    Args:
        task: the model with its tokenizer and labels.
        row: the raw input.
        settings: how it is explained.

    Raises:
        InputError: the task, the target or the model does not fit; the message says why.
        NotExplainedError: the input has no words, or integrated gradients miss too much of the difference of scores.
    """
    found = task.explained(row, settings.target)
    if not found or not any((each.places >= 0).any() for each in found):
        raise NotExplainedError(f"{row.location}: the input has no words, so there is nothing to explain")
    for explained in found:
        example = ScoredExample(task, explained)
        with evaluating(task):
            score = float(example.of_ids(example.batch["input_ids"][None])[0])
            values = METHODS[settings.method](example, settings)
        yield _explanation(example, settings, score, values)


def _explanation(example: ScoredExample, settings: ExplanationSettings, score: float, values: Values) -> Explanation:
    explained, special = example.explained, 0.0
    if values.positions is not None:
        *of_words, special = per_word(values.positions.double(), example.places, len(explained.words)).tolist()
    else:
        assert values.words is not None, "a method returns values of positions or of words"
        of_words = values.words.tolist()
    read: NDArray[np.int64] = np.unique(explained.places)
    known = {*read.tolist()}
    words = [
        ExplainedWord(*word, value if number in known else None)
        for number, (word, value) in enumerate(zip(explained.words, of_words, strict=True))
    ]
    integrated = values.integrated
    return Explanation(
        explained.location,
        settings.method,
        explained.target,
        explained.predicted,
        score,
        [(part.name, part.text) for part in explained.parts],
        words,
        special,
        None if integrated is None else score - integrated.difference,
        None if integrated is None else integrated.error,
        values.num_points,
        values.maps,
    )
