"""Vectors in front of every sequence that belong to no token, such as a trained prompt or prefix."""

from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from bert_lightning.model.layers.attention import Layout
from bert_lightning.model.layers.packing import Packing


class Front(NamedTuple):
    """The arrangement of L added vectors in front of each of n sequences, and of the tokens after them.

    Attention knows the order of vectors only from position embeddings, so the outputs would be the same with the
    vectors in any other place. No property or method waits for a device.

    >>> front = Front.of(torch.zeros(2, 3, 4), Layout(), length=5)
    >>> joined = front.join(torch.ones(2, 5, 4), torch.zeros(2, 3, 4))
    >>> tuple(joined.shape), front.remove(joined).sum()
    ((2, 8, 4), tensor(0.))
    """

    length: int
    """L"""
    num_sequences: int
    """n"""
    layout: Layout
    """the arrangement with the vectors; they are never masked"""
    places: tuple[Tensor, Tensor] | None
    """if packed: where the vectors (n L,) and the rows that were there before (R,) are among all rows"""

    @classmethod
    def of(cls, values: Tensor, layout: Layout, length: int) -> Self:
        """Return the arrangement of (B, S, ...), or of packed (R, ...) whose last rows may belong to no sequence."""
        packing = layout.packing
        # `shape[0]`, because `len` would fix the number in an exported program.
        if packing is None:
            mask = None if layout.mask is None else F.pad(layout.mask, (length, 0), value=True)
            return cls(length, values.shape[0], Layout(mask), None)
        bounds, num_sequences = packing.boundaries.long(), packing.num_sequences
        # Row r of sequence i moves by (i + 1) L, and a row after the last sequence by n L.
        rows = torch.arange(values.shape[0], device=bounds.device)
        sequences_begun = torch.searchsorted(bounds[1:], rows, right=True).clamp(max=num_sequences - 1) + 1
        starts = bounds[:-1] + length * torch.arange(num_sequences, device=bounds.device)
        vectors = starts[:, None] + torch.arange(length, device=bounds.device)
        moved = packing.boundaries + length * torch.arange(
            num_sequences + 1, device=bounds.device, dtype=packing.boundaries.dtype
        )
        new_packing = Packing(moved, packing.max_length + length)
        places = vectors.flatten(), rows + length * sequences_begun
        return cls(length, num_sequences, Layout(packing=new_packing), places)

    def join(self, vectors: Tensor, values: Tensor) -> Tensor:
        """Put vectors (n, L, W) in front: (B, S, W) -> (B, L + S, W), or (R, W) -> (n L + R, W)."""
        vectors = vectors.to(values.dtype)
        if self.places is None:
            return torch.cat([vectors, values], 1)
        joined = values.new_zeros(values.shape[0] + self.num_sequences * self.length, values.shape[-1])
        return joined.index_copy(0, self.places[0], vectors.flatten(0, 1)).index_copy(0, self.places[1], values)

    def remove(self, joined: Tensor) -> Tensor:
        """Remove the vectors again: (B, L + S, W) -> (B, S, W), or (n L + R, W) -> (R, W)."""
        return joined[:, self.length :] if self.places is None else joined[self.places[1]]

    def between_tokens(self, weights: Tensor) -> Tensor:
        """Return the attention weights (n, N, S, S) between tokens out of (n, N, L + S, L + S)."""
        return weights[..., self.length :, self.length :]
