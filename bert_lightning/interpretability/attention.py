"""Attention maps and attention rollout, between the words of a sequence."""

from typing import NamedTuple

import torch
from torch import Tensor

from bert_lightning.errors import InputError
from bert_lightning.model import BertEncoder


def attention_weights(
    encoder: BertEncoder, input_ids: Tensor, token_type_ids: Tensor | None, attention_mask: Tensor | None
) -> Tensor:
    """Return the attention (n, L, N, S, S) of sequences (n, S) in each of L blocks and N heads; rows sum to 1.

    Attention to the vectors of a prompt or a prefix, which are no tokens, is left out, and the rest of each row is
    divided by its sum.

    Raises:
        InputError: the attention is a custom one that returns no weights.
    """
    before, encoder.attention = encoder.attention, "auto"
    try:
        with torch.no_grad():
            output = encoder(input_ids, token_type_ids, attention_mask, output_attentions=True)
    except ValueError as error:
        raise InputError(f"attention and rollout need attention weights: {error}") from None
    finally:
        encoder.attention = before
    assert output.attentions is not None
    weights = torch.stack(output.attentions, 1).float()
    return weights / weights.sum(-1, keepdim=True)


def rollout(attention: Tensor) -> Tensor:
    """Return attention rollout after each block; Abnar and Zuidema 2020 (arXiv 2005.00928), section 3.

    A block passes on half of each state by its residual connection, and half by the mean attention of its heads:
    A = (W + I) / 2. Rollout after block l is A_l ... A_1.

    Args:
        attention: (..., L, N, S, S), rows sum to 1.

    Returns:
        (..., L, S, S): the share of the inputs in each state; rows sum to 1.

    >>> rollout(torch.eye(3).expand(2, 4, 3, 3)).equal(torch.eye(3).expand(2, 3, 3))
    True
    """
    mean = attention.mean(-3)
    blocks = (mean + torch.eye(mean.shape[-1], dtype=mean.dtype, device=mean.device)) / 2
    found = [blocks[..., 0, :, :]]
    for number in range(1, blocks.shape[-3]):
        found.append(blocks[..., number, :, :] @ found[-1])
    return torch.stack(found, -3)


class Units(NamedTuple):
    """The words of a sequence and the special tokens between them, each a stretch of pieces.

    Attributes:
        words: the number of the word of each of U units, -1 for a special token.
        firsts: the first position of each.
        membership: (U, S) 1 at the positions of each unit; padding belongs to none.
    """

    words: list[int]
    firsts: list[int]
    membership: Tensor

    @classmethod
    def of(cls, places: Tensor, num_tokens: int) -> "Units":
        """Group the positions of a sequence, given (S,) the number of the word at each and the number of tokens."""
        words: list[int] = []
        firsts: list[int] = []
        for position, word in enumerate(places[:num_tokens].tolist()):
            if word < 0 or not words or word != words[-1]:
                words.append(word)
                firsts.append(position)
        membership = torch.zeros(len(words), len(places), dtype=torch.float32)
        for number, (first, stop) in enumerate(zip(firsts, [*firsts[1:], num_tokens], strict=True)):
            membership[number, first:stop] = 1
        return cls(words, firsts, membership.to(places.device))

    def between(self, weights: Tensor) -> Tensor:
        """Return weights between units, (..., S, S) -> (..., U, U).

        Weights to a word are summed over its pieces, and weights from a word are their mean; Clark et al. 2019 (arXiv
        1906.04341), section 4.1. So rows still sum to 1.
        """
        members = self.membership.to(weights.dtype)
        return (members / members.sum(1, keepdim=True)) @ weights @ members.T
