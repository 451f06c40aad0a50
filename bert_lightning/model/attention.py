"""Scaled dot-product self-attention over N heads of width D = H / N."""

import torch.nn.functional as F
from torch import Tensor


def self_attention(query_key_value: Tensor, mask: Tensor | None, num_heads: int, dropout: float) -> Tensor:
    """(B, S, 3 H) -> (B, S, H): softmax(Q K^T / sqrt(D)) V per head; `modeling.py: attention_layer`.

    `mask` is boolean (B, 1, 1, S), True where a key may be attended to, or None when nothing is padded. Where the
    original adds -10000 to the score of padding, this excludes it, which differs by less than exp(-10000) = 0.
    `dropout` is the probability to drop an attention probability.
    """
    batch, length, width = query_key_value.shape
    heads = query_key_value.view(batch, length, 3, num_heads, width // (3 * num_heads))
    query, key, value = heads.permute(2, 0, 3, 1, 4)
    context = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
    return context.transpose(1, 2).reshape(batch, length, width // 3)
