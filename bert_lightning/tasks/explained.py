"""A score of one example and the words that it is computed from: the question that an explanation answers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from bert_lightning.checks import nearest
from bert_lightning.data.loading.batching import Batch
from bert_lightning.errors import InputError
from bert_lightning.model.pretrained import PretrainedModel
from bert_lightning.text.wordpiece import WordPieceTokenizer

NO_WORD = -1
"""The number of the word at special tokens and padding."""


class Part(NamedTuple):
    """One of the texts of an example."""

    name: str
    text: str


class Word(NamedTuple):
    """A word of an example, as BERT splits texts: at spaces and around punctuation marks."""

    text: str
    part: int
    """the number of its text, from 0"""
    start: int
    """its first character in that text"""
    end: int
    """the first character after it"""


@dataclass(frozen=True)
class Explained:
    """A score of one example, as a function of n sequences of S tokens.

    Attributes:
        location: the example, as an error names it.
        target: what is scored, such as a label, a tag of a word, or an answer.
        predicted: what the model predicts for the same thing, such as the likeliest label.
        parts: the texts of the example.
        words: all words of the texts, in order.
        batch: the n sequences: `input_ids` (n, S) and whatever `score` needs. The first size of each tensor is n.
        places: (n, S) the number of the word at each position, -1 at special tokens and padding.
        readout: (n, S) the share that the head reads at each position; the shares sum to 1.
        score: k copies of the batch, one after the other -> (k,) scores.
    """

    location: str
    target: str
    predicted: str
    parts: Sequence[Part]
    words: Sequence[Word]
    batch: Batch
    places: NDArray[np.int64]
    readout: NDArray[np.float64]
    score: Callable[[Batch], Tensor]


class SplitText(NamedTuple):
    """A text in words and word pieces.

    Attributes:
        words: its words.
        pieces: the ids of all pieces.
        owners: the number of the word of each piece.
    """

    words: list[Word]
    pieces: list[int]
    owners: list[int]


def split_text(tokenizer: WordPieceTokenizer, text: str, part: int = 0, first: int = 0, shift: int = 0) -> SplitText:
    """Split a text into words and pieces.

    Args:
        tokenizer: the tokenizer of the model.
        text: the text, or a stretch of it.
        part: the number of the text.
        first: the number of its first word.
        shift: the first character of the stretch in the text.

    >>> from bert_lightning.checkpoints.tokenizers.tokenizer_files import Vocabulary
    >>> tokenizer = WordPieceTokenizer(Vocabulary(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "un", "##do", "!")))
    >>> split = split_text(tokenizer, "Undo un!")
    >>> [word.text for word in split.words], split.owners
    (['Undo', 'un', '!'], [0, 0, 1, 2])
    """
    encoding = tokenizer.backend.encode(text, add_special_tokens=False)
    words: list[Word] = []
    owners, last = [], None
    for number, (start, end) in zip(encoding.word_ids, encoding.offsets, strict=True):
        if number != last:
            words.append(Word("", part, start + shift, end + shift))
            last = number
        words[-1] = words[-1]._replace(end=end + shift)
        owners.append(first + len(words) - 1)
    words = [word._replace(text=text[word.start - shift : word.end - shift]) for word in words]
    return SplitText(words, list(encoding.ids), owners)


def number_of(target: str, names: Sequence[str], what: str) -> int:
    """Return the number of a target among names, such as those of the labels.

    Raises:
        InputError: there is no such name; the message has the nearest one.
    """
    if target not in names:
        raise InputError(f"the target is {target!r}, which is no {what} of this model{nearest(target, names)}")
    return list(names).index(target)


def readout_of(model: PretrainedModel, batch: Mapping[str, Any]) -> NDArray[np.float64]:
    """Return (n, S) the share of each position in what a head of sequences reads; each row sums to 1.

    With `cls` pooling it is the first token. With other poolings, and for a custom head, which may read every hidden
    state, it is the mean over the real tokens.
    """
    shape = batch["input_ids"].shape
    mask = batch.get("attention_mask")
    real = np.ones(shape) if mask is None else mask.cpu().numpy().astype(np.float64)
    own_head = getattr(model, "own_head", None)
    if own_head is None and model.config.pooling == "cls":
        # Sequences of tasks begin with [CLS].
        real[:, 1:] = 0
    return real / real.sum(1, keepdims=True)


def places_of(texts: Sequence[Sequence[int]], width: int) -> NDArray[np.int64]:
    """Return (width,) the words at the positions of [CLS] A [SEP] or [CLS] A [SEP] B [SEP], and -1 elsewhere.

    Args:
        texts: the number of the word of each piece of A, and of B.
        width: S.

    >>> places_of([[0, 0], [1]], 7).tolist()
    [-1, 0, 0, -1, 1, -1, -1]
    """
    joined = [NO_WORD, *(number for owners in texts for number in (*owners, NO_WORD))]
    places = np.full(width, NO_WORD, dtype=np.int64)
    places[: len(joined)] = joined
    return places
