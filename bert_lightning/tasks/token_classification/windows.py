"""Windows of tagged sentences: several if a sentence is longer than `max_seq_length`, else one. No word is lost."""

from collections.abc import Iterator, Sequence
from itertools import chain, pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bert_lightning.data.datasets.examples import TaggedSentence
from bert_lightning.tags import OUTSIDE, join_tag, split_tag
from bert_lightning.tasks.token_classification.settings import TokenClassificationData
from bert_lightning.text.wordpiece import WordPieceTokenizer


class Window(NamedTuple):
    """The word pieces of one sequence, and the words whose tags it predicts.

    Attributes:
        sentence: number of the sentence.
        words: the words of the sentence whose tags it predicts. Each word is in exactly one window.
        pieces: ids, with context on both sides, without [CLS] and [SEP].
        positions: the position of the first piece of each of these words; [CLS] has position 0.
        num_pieces: the number of pieces of each of these words.
    """

    sentence: int
    words: range
    pieces: list[int]
    positions: list[int]
    num_pieces: list[int]


def sentence_windows(
    examples: Sequence[TaggedSentence], tokenizer: WordPieceTokenizer, settings: TokenClassificationData
) -> Iterator[Window]:
    """Yield one window per sentence, or several if it is longer than `max_seq_length`.

    Only a sentence that fits gets context of its document.
    """
    room = settings.max_seq_length - 2
    pieces_of = _WordPieces(tokenizer, room)
    encoded = [[pieces_of(word) for word in example.words] for example in examples]
    flat = [[piece for word in words for piece in word] for words in encoded]
    for number, words in enumerate(encoded):
        lengths = [len(word) for word in words]
        ends = np.cumsum(lengths, dtype=np.int64)
        starts = ends - lengths
        if not words or ends[-1] <= room:
            free = room - len(flat[number])
            left, right = _document_context(number, examples, flat, settings.document_context, free)
            positions = [int(start) + len(left) + 1 for start in starts]
            yield Window(number, range(len(words)), [*left, *flat[number], *right], positions, lengths)
            continue
        for inside, predicted in cut_sentence(starts, ends, room, settings.window_overlap):
            offset = int(starts[inside.start])
            yield Window(
                number,
                predicted,
                flat[number][offset : int(ends[inside.stop - 1])],
                [int(starts[word]) - offset + 1 for word in predicted],
                lengths[predicted.start : predicted.stop],
            )


def cut_sentence(
    starts: NDArray[np.int64], ends: NDArray[np.int64], room: int, overlap: int
) -> Iterator[tuple[range, range]]:
    """Cut a sentence at word boundaries into windows that overlap.

    If two windows share words, each word belongs to the window in which the smaller of its two contexts is larger, as
    `run_squad.py: _check_is_max_context` decides. So the border is in the middle of the shared words.

    Args:
        starts: (words,) the first piece of each word.
        ends: (words,) the first piece after each word.
        room: pieces that a window holds; no word is longer.
        overlap: pieces that two windows have in common, or fewer because words are not cut.

    Yields:
        For each window the words inside it, and those of them whose tags it predicts.
    """
    windows = list(_overlapping_windows(starts, ends, room, overlap))
    borders = [0]
    for left, right in pairwise(windows):
        shared = slice(right.start, left.stop)
        # Twice the middle of each shared word, and of the pieces that the windows share.
        doubled_middles = starts[shared] + ends[shared]
        doubled_middle = int(starts[right.start]) + int(ends[left.stop - 1])
        borders.append(right.start + int(np.searchsorted(doubled_middles, doubled_middle)))
    borders.append(windows[-1].stop)
    for window, (begin, end) in zip(windows, pairwise(borders), strict=True):
        yield window, range(begin, end)


def _overlapping_windows(
    starts: NDArray[np.int64], ends: NDArray[np.int64], room: int, overlap: int
) -> Iterator[range]:
    """Yield the words of each window: from the first word inside the overlap, all words that fit."""

    def stop_of(first: int) -> int:
        return int(np.searchsorted(ends, starts[first] + room, side="right"))

    first, stop = 0, stop_of(0)
    yield range(first, stop)
    while stop < len(ends):
        # The first word that begins inside the overlap, but at least one word later than the last window.
        inside = int(np.searchsorted(starts, ends[stop - 1] - overlap, side="left"))
        first = min(max(inside, first + 1), stop)
        # A long next word may leave no room for the whole overlap.
        while stop_of(first) <= stop:
            first += 1
        stop = stop_of(first)
        yield range(first, stop)


def _document_context(
    number: int, examples: Sequence[TaggedSentence], flat: Sequence[list[int]], num_pieces: int, room: int
) -> tuple[list[int], list[int]]:
    """Return pieces of the same document before and after a sentence.

    Args:
        number: number of the sentence.
        examples: all sentences.
        flat: the pieces of each sentence.
        num_pieces: pieces on each side, at most.
        room: pieces on both sides together, at most. One side may use the room that the other one leaves.
    """
    document = examples[number].document
    if not num_pieces or not document:
        return [], []

    def collect(sentences: range) -> list[int]:
        """Return whole sentences in this order until there are enough pieces; the first piece is the nearest."""
        pieces: list[int] = []
        for other in sentences:
            if len(pieces) >= num_pieces or examples[other].document != document:
                break
            pieces += flat[other] if sentences.step > 0 else reversed(flat[other])
        return pieces[:num_pieces]

    left, right = collect(range(number - 1, -1, -1)), collect(range(number + 1, len(examples)))
    num_left = min(len(left), max(room // 2, room - len(right)))
    num_right = min(len(right), room - num_left)
    return left[:num_left][::-1], right[:num_right]


class _WordPieces:
    """The pieces of words; each word is tokenised once.

    A word without pieces, such as a control character, becomes the unknown token. A word longer than the room is cut.
    """

    def __init__(self, tokenizer: WordPieceTokenizer, room: int) -> None:
        self.tokenizer, self.room = tokenizer, room
        self.pieces: dict[str, list[int]] = {}

    def __call__(self, word: str) -> list[int]:
        if word not in self.pieces:
            [pieces] = self.tokenizer.encode_batch([word])
            self.pieces[word] = pieces[: self.room] or [self.tokenizer.unknown_id]
        return self.pieces[word]


def piece_positions(window: Window) -> list[int]:
    """Return the positions of all pieces of the words whose tags a window predicts.

    >>> piece_positions(Window(0, range(2), [7, 8, 9], positions=[1, 3], num_pieces=[2, 1]))
    [1, 2, 3]
    """
    words = zip(window.positions, window.num_pieces, strict=True)
    return list(chain.from_iterable(range(first, first + number) for first, number in words))


def piece_tags(tag: str, number: int) -> list[str]:
    """Return the tag of each piece of a word, so that all pieces are in the word's span.

    >>> piece_tags("S-PER", 3), piece_tags("B-PER", 2)
    (['B-PER', 'I-PER', 'E-PER'], ['B-PER', 'I-PER'])
    """
    if number == 1 or tag == OUTSIDE:
        return [tag] * number
    prefix, kind = split_tag(tag)
    inner = join_tag("I", kind)
    if prefix in ("S", "U"):
        return [join_tag("B", kind), *[inner] * (number - 2), join_tag("E" if prefix == "S" else "L", kind)]
    if prefix in ("E", "L"):
        return [*[inner] * (number - 1), tag]
    return [tag, *[inner] * (number - 1)]
