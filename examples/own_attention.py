"""A custom attention: each head forgets distant tokens at its own rate (Press et al. 2022, ALiBi)."""

import torch
from torch import nn


class LinearBiases(nn.Module):
    """Attention whose logits fall in proportion to the distance, with a learned slope per head."""

    def __init__(self, config, steepest=1.0):
        super().__init__()
        heads = config.num_attention_heads
        self.log_slopes = nn.Parameter(torch.linspace(0, -3, heads) + torch.log(torch.tensor(steepest)))

    def forward(self, query, key, value, layout, dropout):
        """Attend (B, N, S, D) x 3, with the mask (B, 1, 1, S) of `layout`: (B, N, S, D)."""
        position = torch.arange(query.shape[2], device=query.device)
        distance = (position[:, None] - position).abs()
        logits = query @ key.mT / query.shape[-1] ** 0.5
        logits = logits - self.log_slopes.exp()[:, None, None] * distance
        if layout.mask is not None:
            logits = logits.masked_fill(~layout.mask, -torch.inf)
        weights = logits.softmax(-1, dtype=torch.float32).to(value.dtype)
        return nn.functional.dropout(weights, dropout) @ value
