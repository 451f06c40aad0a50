"""One vector for a sequence: its first token, or the mean or the maximum over its tokens."""

import torch
from torch import Tensor

from bert_lightning.model.attention import Layout


def pool(hidden: Tensor, layout: Layout, pooling: str) -> Tensor:
    """(B, S, H) or packed (T, H) -> (B, H) or (n, H), over real tokens only.

    `pooling` is `cls` (the first token), `mean` or `max`.
    """
    packing = layout.packing
    if pooling == "cls":
        return hidden[:, 0] if packing is None else hidden[packing.firsts]
    if packing is None:
        mask = layout.mask[:, 0, 0, :, None] if layout.mask is not None else None
        if pooling == "max":
            return (hidden if mask is None else hidden.masked_fill(~mask, torch.finfo(hidden.dtype).min)).amax(1)
        if mask is None:
            return hidden.mean(1)
        return (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)
    numbers = packing.sequence_numbers(hidden.shape[0])
    pooled = hidden.new_zeros(packing.num_sequences, hidden.shape[1])
    if pooling == "max":
        return pooled.scatter_reduce(0, numbers[:, None].expand_as(hidden), hidden, "amax", include_self=False)
    return pooled.index_add(0, numbers, hidden) / packing.lengths[:, None].clamp(min=1).to(hidden.dtype)
