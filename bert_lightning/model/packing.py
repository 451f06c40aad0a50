"""Sequences of any lengths laid end to end: T tokens and the boundaries between them, without padding."""

from typing import NamedTuple

import torch
from torch import Tensor


class Packing(NamedTuple):
    """Where n packed sequences begin and end.

    The two fields are what variable-length attention kernels ask for. On CUDA nothing here waits for the device.
    """

    boundaries: Tensor
    """(n + 1,) int32, ascending from 0 to T; sequence i is the tokens `boundaries[i]` to `boundaries[i + 1] - 1`"""
    max_length: int
    """at least the length of the longest sequence"""

    @property
    def num_sequences(self) -> int:
        """n."""
        return self.boundaries.shape[0] - 1

    @property
    def firsts(self) -> Tensor:
        """(n,) the first token of each sequence."""
        return self.boundaries[:-1].long()

    @property
    def lengths(self) -> Tensor:
        """(n,) tokens of each sequence."""
        return self.boundaries.diff().long()

    def sequence_numbers(self, num_tokens: int) -> Tensor:
        """(T,) which sequence each token belongs to."""
        numbers = torch.arange(self.num_sequences, device=self.boundaries.device)
        return numbers.repeat_interleave(self.lengths, output_size=num_tokens)

    def positions(self, num_tokens: int) -> Tensor:
        """(T,) the place of each token in its sequence, from 0."""
        tokens = torch.arange(num_tokens, device=self.boundaries.device)
        return tokens - self.firsts[self.sequence_numbers(num_tokens)]


def packing_of(lengths: Tensor) -> Packing:
    """(n,) lengths -> the packing of sequences of these lengths; waits for the device that holds them."""
    boundaries = torch.zeros(len(lengths) + 1, dtype=torch.int32, device=lengths.device)
    boundaries[1:] = lengths.cumsum(0)
    return Packing(boundaries, int(lengths.max()) if len(lengths) else 0)


def longest_of(packing: Packing, num_tokens: int) -> int:
    """The length of the longest sequence; elsewhere than on a processor, where counting would wait, `max_length`.

    Raises:
        ValueError: on a processor, boundaries that are not those of so many tokens.
    """
    boundaries = packing.boundaries
    if boundaries.device.type != "cpu" or torch.compiler.is_compiling():
        return packing.max_length
    lengths = boundaries.diff()
    if boundaries[0] != 0 or boundaries[-1] != num_tokens or (lengths < 0).any():
        raise ValueError(f"the packing's boundaries {boundaries.tolist()} do not run from 0 to {num_tokens}")
    longest = int(lengths.max()) if len(lengths) else 0
    if longest > packing.max_length:
        raise ValueError(f"the packing's max_length is {packing.max_length}, but a sequence has {longest} tokens")
    return longest


def real_tokens(attention_mask: Tensor, order: Tensor | None = None) -> tuple[Tensor, Packing]:
    """(B, S) mask -> the places (T,) of its real tokens among the B * S, and their packing; rows in `order` (B,)."""
    real = attention_mask.bool()
    if order is None:
        return real.flatten().nonzero().squeeze(1), packing_of(real.sum(1))
    rows, columns = real[order].nonzero(as_tuple=True)
    return order[rows] * real.shape[1] + columns, packing_of(real.sum(1)[order])


def order_by_length(attention_mask: Tensor) -> Tensor | None:
    """(B, S) mask -> an order of rows (B,) in which those of one length lie together; None where few share one."""
    lengths = attention_mask.bool().sum(1)
    _, counts = lengths.unique(return_counts=True)
    return lengths.argsort(stable=True) if len(counts) * 3 <= len(lengths) else None


def pad(packed: Tensor, packing: Packing) -> tuple[Tensor, Tensor]:
    """(T, ...) -> (n, max_length, ...), zero where there is no token, and where each token went (T,)."""
    num_tokens, rest = packed.shape[0], packed.shape[1:]
    places = packing.sequence_numbers(num_tokens) * packing.max_length + packing.positions(num_tokens)
    padded = packed.new_zeros(packing.num_sequences * packing.max_length, *rest).index_copy(0, places, packed)
    return padded.unflatten(0, (packing.num_sequences, packing.max_length)), places
