"""Verbalisers: the words that stand for the labels, as word pieces."""

from collections.abc import Container, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from bert_lightning.checks import nearest
from bert_lightning.text.wordpiece import WordPieceTokenizer


class Verbalizer(NamedTuple):
    """The answers of all labels, as word pieces.

    An answer of several pieces stands at several masks, from the first one on. Its probability is the product of
    those of its pieces, all of which are predicted together; Schick and Schütze 2021, arXiv 2009.07118, section 3.1.
    The probability of a label is the sum over its answers. No answer is the beginning of another one, so the events
    exclude each other, and the probabilities of all labels sum to at most 1.
    """

    pieces: list[list[int]]
    """the pieces of each answer"""
    labels: list[int]
    """the number of the label of each answer, ascending"""

    @property
    def num_masks(self) -> int:
        """K, the number of pieces of the longest answer."""
        return max(map(len, self.pieces))

    @property
    def first_answers(self) -> list[list[int]]:
        """The first answer of each label."""
        return [self.pieces[self.labels.index(number)] for number in range(max(self.labels) + 1)]

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the pieces (A, K), which of them exist (A, K), and which label each of the A answers has (A, L)."""
        num_masks = self.num_masks
        pieces = torch.tensor([each + [0] * (num_masks - len(each)) for each in self.pieces])
        exist = torch.tensor([[place < len(each) for place in range(num_masks)] for each in self.pieces])
        return pieces, exist, torch.tensor(self.labels)[:, None] == torch.arange(max(self.labels) + 1)


def log_probabilities(logits: Tensor, pieces: Tensor, exist: Tensor, of_label: Tensor) -> Tensor:
    """Return (B, L) the logarithm of the probability of each label, from logits (B, K, V) at the K masks.

    Args:
        logits: the scores of the vocabulary at each mask.
        pieces: (A, K) the pieces of each answer.
        exist: (A, K) false where an answer has no piece; the prediction there is ignored.
        of_label: (A, L) which label each answer has.
    """
    by_piece = logits.log_softmax(-1)[:, torch.arange(pieces.shape[1], device=pieces.device), pieces]
    by_answer = (by_piece * exist).sum(-1)
    if of_label.shape[0] == of_label.shape[1]:
        # One answer per label, in order.
        return by_answer
    return by_answer[..., None].masked_fill(~of_label, float("-inf")).logsumexp(1)


def encode_answers(
    answers: Mapping[str, Sequence[str]], tokenizer: WordPieceTokenizer, given: Container[str]
) -> Verbalizer:
    """Return the pieces of all answers.

    Args:
        answers: label -> its answers, in the order of the labels' ids.
        tokenizer: the tokenizer of the model.
        given: the labels whose answers are settings. The others stand for themselves.

    Raises:
        ValueError: a word is outside the vocabulary, two labels have one word, or an answer begins with another. The
            message begins with the key.
    """
    pieces: list[list[int]] = []
    owners: list[int] = []
    for number, (label, words) in enumerate(answers.items()):
        for word in words:
            pieces.append(_pieces(word, label, tokenizer, label in given))
            owners.append(number)
    labels = list(answers)
    _check_apart(pieces, [labels[owner] for owner in owners], [word for words in answers.values() for word in words])
    return Verbalizer(pieces, owners)


def _pieces(word: str, label: str, tokenizer: WordPieceTokenizer, is_given: bool) -> list[int]:
    ids = tokenizer.encode_batch([word])[0]
    own = "" if is_given else " (the label's own name)"
    if not ids:
        raise ValueError(f"verbalizer.{label} is {word!r}{own}, which has no word piece")
    if set(ids) & set(tokenizer.special_ids):
        entries = [each for each in tokenizer.entries if each and not each.startswith(("##", "["))]
        near = nearest(word.lower(), entries, cutoff=0.6)
        suggestion = near if near.endswith("?") else ""
        raise ValueError(f"verbalizer.{label} is {word!r}{own}, which is outside the vocabulary{suggestion}")
    return ids


def _check_apart(pieces: Sequence[list[int]], labels: Sequence[str], words: Sequence[str]) -> None:
    for number, one in enumerate(pieces):
        for place, other in enumerate(pieces):
            if number == place or other[: len(one)] != one:
                continue
            mine, theirs = f"verbalizer.{labels[number]}", f"that of {labels[place]}"
            if one == other:
                raise ValueError(
                    f"{mine} is {words[number]!r}, the same word as {theirs}: an answer belongs to one label"
                )
            raise ValueError(
                f"{mine} is {words[number]!r}, with which {theirs} ({words[place]!r}) begins, so the second could "
                "never be likelier: choose answers that begin differently"
            )
