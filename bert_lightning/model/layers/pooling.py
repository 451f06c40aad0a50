"""Pooling of a sequence to one vector: its first real token, or the mean or maximum over its real tokens."""

import torch
from torch import Tensor

from bert_lightning.model.layers.attention import Layout
from bert_lightning.model.layers.packing import Packing


def pool(hidden: Tensor, layout: Layout, pooling: str) -> Tensor:
    """Pool (B, S, H) or packed (T, H) to (B, H) or (n, H), over real tokens only.

    `pooling` is `cls` (the first real token), `mean` or `max`. A sequence without a real token becomes 0. Padded and
    packed input give the same result, wherever the padding is. No operation waits for the device.
    """
    if layout.packing is not None:
        return _pool_packed(hidden, layout.packing, pooling)
    if layout.mask is None:
        if pooling == "cls":
            return hidden[:, 0]
        return hidden.mean(1) if pooling == "mean" else hidden.amax(1)
    mask = layout.mask[:, 0, 0, :, None]
    num_tokens = mask.sum(1)
    if pooling == "cls":
        # argmax returns the first of equal values.
        first = mask.int().argmax(1, keepdim=True).expand(-1, -1, hidden.shape[2])
        return hidden.gather(1, first)[:, 0] * (num_tokens > 0)
    if pooling == "mean":
        return (hidden * mask).sum(1) / num_tokens.clamp(min=1)
    return hidden.masked_fill(~mask, torch.finfo(hidden.dtype).min).amax(1) * (num_tokens > 0)


def _pool_packed(hidden: Tensor, packing: Packing, pooling: str) -> Tensor:
    lengths, num_tokens = packing.lengths, hidden.shape[0]
    if num_tokens == 0:
        return hidden.new_zeros(packing.num_sequences, hidden.shape[1])
    if pooling == "cls":
        # A sequence without tokens begins where the next one begins, or after the last token.
        return hidden[packing.firsts.clamp(max=num_tokens - 1)] * (lengths > 0)[:, None]
    numbers = packing.sequence_numbers(num_tokens)
    pooled = hidden.new_zeros(packing.num_sequences, hidden.shape[1])
    if pooling == "max":
        return pooled.scatter_reduce(0, numbers[:, None].expand_as(hidden), hidden, "amax", include_self=False)
    return pooled.index_add(0, numbers, hidden) / lengths[:, None].clamp(min=1).to(hidden.dtype)
