"""Vectors of words and texts at every layer: means of the hidden states of their word pieces."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from bert_lightning.errors import InputError

Pooling = Literal["mean", "first"]
"""How word pieces become one vector. The first piece of a whole text is [CLS]."""
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)


class Stretch(NamedTuple):
    """Consecutive word pieces of one sequence of a batch.

    Attributes:
        row: the number of the sequence in its batch.
        start: the position of the first piece; [CLS] has position 0.
        num_pieces: how many there are.
    """

    row: int
    start: int
    num_pieces: int


def require_pooling(pooling: str) -> None:
    """Check the name of a pooling.

    Raises:
        InputError: there is no such pooling.
    """
    if pooling not in POOLINGS:
        raise InputError(f"pooling is {pooling!r}; it must be one of {', '.join(POOLINGS)}")


def pooled_states(states: Tensor, stretches: Sequence[Stretch], pooling: Pooling = "mean") -> Tensor:
    """Return one vector per stretch and layer, (layers, B, S, H) -> (layers, n, H).

    The mean over the pieces of a word is that of Hewitt and Manning 2019 (A Structural Probe for Finding Syntax in
    Word Representations, section 3).

    >>> states = torch.arange(6.0).reshape(1, 1, 6, 1)
    >>> pooled_states(states, [Stretch(0, 1, 2), Stretch(0, 3, 1)]).flatten().tolist()
    [1.5, 3.0]
    """
    length, num_taken = states.shape[2], [each.num_pieces if pooling == "mean" else 1 for each in stretches]
    numbers = torch.tensor(num_taken, device=states.device)
    owners = torch.repeat_interleave(torch.arange(len(stretches), device=states.device), numbers)
    starts = torch.tensor([each.row * length + each.start for each in stretches], device=states.device)
    within = torch.arange(len(owners), device=states.device) - (numbers.cumsum(0) - numbers)[owners]
    pieces = states.flatten(1, 2)[:, starts[owners] + within]
    sums = states.new_zeros(len(states), len(stretches), states.shape[3]).index_add(1, owners, pieces)
    return sums / numbers[:, None]
