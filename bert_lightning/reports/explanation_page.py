"""Explanations as an HTML page: texts whose words are coloured by their values, and maps of attention on demand."""

import base64
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bert_lightning.errors import InputError
from bert_lightning.interpretability.explaining import ExplanationSettings
from bert_lightning.reports.self_contained_page import self_contained_page
from bert_lightning.runs.explanation import ExplainedWord, Explanation, WeightMap
from bert_lightning.wording import count

# The most that a browser on a phone can show: explanations, words, and characters of maps.
_MOST_EXPLANATIONS, _MOST_WORDS, _MOST_MAPS = 300, 30_000, 24_000_000
# Shades of a colour. The page's style has a class for each.
_NUM_SHADES = 6
_NUM_LARGEST = 8
# Words that are shown on each side of those that are read.
_NUM_UNREAD = 20
# The steps of the square root of a weight, which the page's script knows.
_STEPS = 63
CAPTIONS = {
    "attention": "The mean attention over all blocks and heads, from the positions that the head of the model reads. "
    "The values of all words and special tokens sum to 1.",
    "rollout": "Attention rollout: the share of each word in the states that the head of the model reads, if each "
    "block passes on half by attention and half by its residual connection. All shares sum to 1.",
    "gradient-x-input": "The gradient of the score times the embedding of each word.",
    "integrated-gradients": "Integrated gradients from a text of {replacement} tokens. The values of all words sum "
    "to the difference between the score and that of this baseline.",
    "occlusion": "How much the score falls if the word is replaced by {replacement}.",
}
"""Method -> what its values are."""


@dataclass(frozen=True)
class Run:
    """A stretch of a text: a word, or what stands between words.

    Attributes:
        text: its characters.
        number: the number of the word; None between words.
        shade: class of the word's colour.
        value: the value as text.
    """

    text: str
    number: int | None = None
    shade: str = ""
    value: str = ""


@dataclass(frozen=True)
class ExplanationView:
    """An explanation as the page shows it.

    Attributes:
        explanation: the explanation.
        facts: what stands below the heading.
        texts: name and stretches of each text.
        num_unread: words at the ends of texts that are left out, because the score does not depend on them.
        largest: the words with the largest values, each with its value and the length of its bar in percent.
        maps: data for the script: the compressed blocks of each map.
        map_values: the words, tokens, sizes and readout of the maps, as JSON for the script.
    """

    explanation: Explanation
    facts: Sequence[str]
    texts: Sequence[tuple[str, Sequence[Run]]]
    num_unread: int
    largest: Sequence[tuple[str, str, float, str]]
    maps: Sequence[Sequence[str]] = ()
    map_values: str = ""


class PageContent:
    """The explanations of a page, as many as a browser can show.

    Attributes:
        checkpoint: the model.
        settings: how its predictions are explained.
        views: the explanations.
        limit: what the page leaves out, as a sentence; empty if nothing.
    """

    def __init__(self, checkpoint: str, settings: ExplanationSettings) -> None:
        self.checkpoint, self.settings = checkpoint, settings
        self.views: list[ExplanationView] = []
        self.limit = ""
        self._num_words = self._num_characters = self._num_reduced = 0

    def add(self, explanation: Explanation) -> bool:
        """Add an explanation. Return False if the page is full.

        Raises:
            InputError: the explanation has more words than a page can show.
        """
        num_words = sum(word.value is not None for word in explanation.words)
        if num_words > _MOST_WORDS:
            raise InputError(
                f"{explanation.location}: {num_words:,} words are read, and a page can show {_MOST_WORDS:,}: "
                "write .json"
            )
        if len(self.views) == _MOST_EXPLANATIONS or self._num_words + num_words > _MOST_WORDS:
            held = count(len(self.views), "explanation")
            self.limit = (
                f"A page can show {_MOST_EXPLANATIONS} explanations and {_MOST_WORDS:,} words, so it holds the first "
                f"{held} and the rest of the input was not read: write .json for all of it."
            )
            return False
        self._num_words += num_words
        maps, blocks = self._fitting(explanation.maps)
        self._num_characters += _size(blocks)
        self.views.append(_view(explanation, blocks, _map_values(maps) if maps else ""))
        return True

    def _fitting(self, maps: Sequence[WeightMap]) -> tuple[Sequence[WeightMap], Sequence[Sequence[str]]]:
        """Return the maps for which there is room, and their blocks: all heads, their mean, or none."""
        means = [each._replace(weights=each.weights.mean(1, keepdims=True)) for each in maps]
        forms: Sequence[tuple[Sequence[WeightMap], str]] = [
            (maps, ""), (means, "only the mean over the heads"), ([], "no maps"),
        ]  # fmt: skip
        compressed = ((kept, lost, [_compressed(each) for each in kept]) for kept, lost in forms)
        kept, lost, blocks = next(
            form for form in compressed if self._num_characters + _size(form[2]) <= _MOST_MAPS or not form[0]
        )
        if lost:
            self._num_reduced += 1
            self.limit = (
                f"A page can hold {_MOST_MAPS // 1_000_000} MB of maps, so {count(self._num_reduced, 'explanation')} "
                f"at the end {'has' if self._num_reduced == 1 else 'have'} {lost}: explain fewer texts at once."
            )
        return kept, blocks


def explanation_page(content: PageContent, left_out: Sequence[str]) -> str:
    """Return the page.

    Args:
        content: the explanations.
        left_out: a message about each input that is not explained.
    """
    settings = content.settings
    signed = settings.method not in ("attention", "rollout")
    return self_contained_page(
        "explanation.html.jinja",
        f"Explanations by {settings.method.replace('-', ' ')}",
        styles=["explanation.css.jinja"],
        scripts=["explanation.js.jinja"],
        views=content.views,
        facts=[content.checkpoint, count(len(content.views), "explanation")],
        caption=CAPTIONS[settings.method].format(replacement=settings.replacement),
        limit=content.limit,
        left_out=left_out,
        signed=signed,
        map_title="Rollout after each block" if settings.method == "rollout" else "Attention of each block and head",
        shades=[f"n{number}" for number in range(_NUM_SHADES, 0, -1)] * signed
        + ["z"]
        + [f"p{number}" for number in range(1, _NUM_SHADES + 1)],
    )


def _view(explanation: Explanation, maps: Sequence[Sequence[str]], map_values: str) -> ExplanationView:
    read = [word for word in explanation.words if word.value is not None]
    largest = max((abs(word.value or 0.0) for word in read), default=0.0)
    texts, num_unread = [], 0
    for part, (name, text) in enumerate(explanation.texts):
        words = [(number, word) for number, word in enumerate(explanation.words) if word.part == part]
        places = [place for place, (_, word) in enumerate(words) if word.value is not None]
        # A few unread words on both sides show where the model begins and where it stops reading.
        first = max(0, min(places, default=0) - _NUM_UNREAD)
        shown = words[first : max(places, default=-1) + 1 + _NUM_UNREAD]
        num_unread += len(words) - len(shown)
        begin = shown[0][1].start if first else 0
        end = shown[-1][1].end if first + len(shown) < len(words) else len(text)
        texts.append((name, list(_runs(text[:end], shown, largest, begin))))
    by_size = sorted(read, key=lambda word: -abs(word.value or 0.0))[:_NUM_LARGEST]
    return ExplanationView(
        explanation,
        list(_facts(explanation)),
        texts,
        num_unread,
        [
            (word.text, _signed(word.value), 100 * abs(word.value or 0.0) / (largest or 1.0), _sign(word.value))
            for word in by_size
        ],
        maps,
        map_values,
    )


def _facts(explanation: Explanation) -> Iterator[str]:
    yield explanation.location
    yield f"score {explanation.score:.4g}"
    if explanation.predicted != explanation.target:
        yield f"the model predicts {explanation.predicted}"
    if explanation.baseline_score is not None:
        yield f"baseline {explanation.baseline_score:.4g}"
    if explanation.completeness_error is not None and explanation.num_points is not None:
        points = count(explanation.num_points, "point")
        yield f"completeness error {explanation.completeness_error:.2g} with {points}"
    elif explanation.special_tokens:
        yield f"special tokens {explanation.special_tokens:.3g}"


def _runs(text: str, words: Sequence[tuple[int, ExplainedWord]], largest: float, begin: int) -> Iterator[Run]:
    """Yield the words of a text, from the character `begin` on, with what stands between them."""
    end = begin
    for number, word in words:
        if word.start > end:
            yield Run(text[end : word.start])
        yield Run(text[word.start : word.end], number, _shade(word.value, largest), _signed(word.value))
        end = word.end
    if end < len(text):
        yield Run(text[end:])


def _shade(value: float | None, largest: float) -> str:
    """Return the class of a value: `p1` to `p6`, `n1` to `n6`, `z` for almost nothing, `unread` for no value."""
    if value is None:
        return "unread"
    shade = round(_NUM_SHADES * abs(value) / largest) if largest else 0
    return f"{_sign(value)}{shade}" if shade else "z"


def _sign(value: float | None) -> str:
    return "n" if value is not None and value < 0 else "p"


def _signed(value: float | None) -> str:
    return "not read" if value is None else f"{value:+.3g}"


def _compressed(weights: WeightMap) -> list[str]:
    """Return each block of a map as text: the square roots of its weights (N, U, U) in 63 steps, deflated.

    A root keeps differences of small weights: 1/400 is step 3. The blocks have fewer steps than a byte can hold,
    because they are then smaller when deflated.
    """
    roots = np.rint(_STEPS * np.sqrt(np.clip(weights.weights, 0, 1))).astype(np.uint8)
    return [base64.b64encode(zlib.compress(block.tobytes(), 6)).decode() for block in roots]


def _size(maps: Sequence[Sequence[str]]) -> int:
    return sum(len(block) for each in maps for block in each)


def _map_values(maps: Sequence[WeightMap]) -> str:
    """Return what the script needs besides the weights, as JSON that a script element can hold."""
    values = [
        {
            "words": list(each.words),
            "tokens": list(each.tokens),
            "layers": each.weights.shape[0],
            "heads": each.weights.shape[1],
            "readout": [round(share, 6) for share in each.readout.tolist()],
        }
        for each in maps
    ]
    return json.dumps(values).replace("<", "\\u003c")
