"""Packed sequences: T tokens without padding, and the boundaries between the sequences."""

import itertools
from typing import NamedTuple

import torch
from torch import Tensor


class Packing(NamedTuple):
    """Boundaries of n packed sequences, in the form that variable-length attention kernels need.

    On CUDA no property or method waits for the device.

    >>> packing = packing_of(torch.tensor([2, 3]))
    >>> packing.boundaries.tolist(), packing.positions(num_tokens=5).tolist()
    ([0, 2, 5], [0, 1, 0, 1, 2])
    """

    boundaries: Tensor
    """(n + 1,) int32, ascending from 0 to T; sequence i is the tokens `boundaries[i]` to `boundaries[i + 1] - 1`"""
    max_length: int
    """the length of the longest sequence, or more"""

    @property
    def num_sequences(self) -> int:
        return self.boundaries.shape[0] - 1

    @property
    def firsts(self) -> Tensor:
        """(n,) index of the first token of each sequence."""
        return self.boundaries[:-1].long()

    @property
    def lengths(self) -> Tensor:
        """(n,) number of tokens in each sequence."""
        return self.boundaries.diff().long()

    def sequence_numbers(self, num_tokens: int) -> Tensor:
        """Return (T,) the index of the sequence to which each token belongs."""
        numbers = torch.arange(self.num_sequences, device=self.boundaries.device)
        return numbers.repeat_interleave(self.lengths, output_size=num_tokens)

    def positions(self, num_tokens: int) -> Tensor:
        """Return (T,) the position of each token in its sequence."""
        tokens = torch.arange(num_tokens, device=self.boundaries.device)
        return tokens - self.firsts[self.sequence_numbers(num_tokens)]


def round_size(size: int, num_sizes: int = 32) -> int:
    """Round a size up to a multiple of 8; a large size gets one of `num_sizes` values between two powers of two.

    Libraries of matrix products build a kernel for each shape that they meet, and allocators keep memory for it. Few
    shapes make both cheap. With 32 sizes per octave, a size grows by 1.2 % on average, and by at most 3.1 % from 256.

    >>> [round_size(size) for size in (0, 1, 8, 250, 500, 3797, 4096)]
    [0, 8, 8, 256, 504, 3840, 4096]
    >>> [round_size(size, num_sizes=4) for size in (30, 33, 65, 100, 300)]
    [32, 40, 80, 112, 320]
    """
    multiple = max(8, 2 ** (size - 1).bit_length() // (2 * num_sizes)) if size else 1
    return -(-size // multiple) * multiple


def with_rest(packing: Packing, num_tokens: int, num_rows: int) -> Packing:
    """Return the packing of T tokens and of further rows, which become a sequence of their own."""
    rest = num_rows - num_tokens
    if not rest:
        return packing
    end = packing.boundaries.new_full((1,), num_rows)
    return Packing(torch.cat([packing.boundaries, end]), max(packing.max_length, rest))


class LengthGroup(NamedTuple):
    """Neighbouring sequences of a packing that are computed together, padded to one length."""

    lengths: list[int]
    padded_length: int

    @property
    def num_tokens(self) -> int:
        return sum(self.lengths)

    @property
    def is_padded(self) -> bool:
        return self.num_tokens != self.padded_length * len(self.lengths)


def groups_of_lengths(lengths: list[int]) -> list[LengthGroup]:
    """Group neighbouring sequences so that few shapes occur. The size of each group is a power of two.

    Sequences are padded to one of four lengths per octave, but not beyond the longest sequence, whose length is
    usually the limit of the data. Sequences that need no padding form groups of their own. Each group takes as many
    of the neighbours that are left as the largest power of two allows.

    >>> for group in groups_of_lengths([70, 75, 80, 100, 100, 100]):
    ...     print(group.lengths, group.padded_length)
    [70, 75] 80
    [80] 80
    [100, 100] 100
    [100] 100
    """
    longest, groups = max(lengths, default=0), []

    def form(length: int) -> tuple[int, bool]:
        padded_length = min(round_size(length, num_sizes=4), longest)
        return padded_length, length == padded_length

    for (padded_length, _), neighbours in itertools.groupby(filter(None, lengths), form):
        left = list(neighbours)
        while left:
            number = 1 << (len(left).bit_length() - 1)
            groups.append(LengthGroup(left[:number], padded_length))
            left = left[number:]
    return groups


def packing_of(lengths: Tensor) -> Packing:
    """Return the packing of sequences with the lengths (n,); waits for the device that holds them."""
    boundaries = torch.zeros(len(lengths) + 1, dtype=torch.int32, device=lengths.device)
    boundaries[1:] = lengths.cumsum(0)
    return Packing(boundaries, int(lengths.max()) if len(lengths) else 0)


def longest_of(packing: Packing, num_tokens: int) -> int:
    """Return the length of the longest sequence on a CPU, else `max_length`, because counting would wait.

    Raises:
        ValueError: on a CPU, the boundaries do not fit the number of tokens.
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
    """Return the indices (T,) of the real tokens of a mask (B, S), flattened to B * S, and their packing.

    The sequences come in `order` (B,) if it is given.
    """
    real = attention_mask.bool()
    if order is None:
        return real.flatten().nonzero().squeeze(1), packing_of(real.sum(1))
    rows, columns = real[order].nonzero(as_tuple=True)
    return order[rows] * real.shape[1] + columns, packing_of(real.sum(1)[order])


# In attention, one more group of sequences costs a processor about as much time as n more tokens cost in the matrix
# products of a block, forward and backward. n is this number divided by H^2. It was measured for H from 128 to 768.
_TOKENS_PER_GROUP = 3e6


def order_by_length(attention_mask: Tensor, hidden_size: int) -> Tensor | None:
    """Return an order (B,) that puts equal lengths together; None if padding costs less than groups of lengths."""
    real = attention_mask.bool().sum(1)
    lengths, order = real.sort(stable=True)
    num_groups = len(groups_of_lengths(lengths.tolist()))
    num_padding = attention_mask.numel() - int(real.sum())
    return order if num_padding * hidden_size**2 > num_groups * _TOKENS_PER_GROUP else None


def pad(packed: Tensor, packing: Packing) -> tuple[Tensor, Tensor]:
    """Pad with zeros: (T, ...) -> (n, max_length, ...), and the indices (T,) of the tokens in it, flattened."""
    num_tokens, rest = packed.shape[0], packed.shape[1:]
    indices = packing.sequence_numbers(num_tokens) * packing.max_length + packing.positions(num_tokens)
    padded = packed.new_zeros(packing.num_sequences * packing.max_length, *rest).index_copy(0, indices, packed)
    return padded.unflatten(0, (packing.num_sequences, packing.max_length)), indices
