"""A custom head and a custom loss: attention over all tokens, and a margin between the classes."""

from dataclasses import dataclass

import torch
from torch import nn


class AttentivePooling(nn.Module):
    """Scores from a weighted mean of all hidden states, instead of the pooled [CLS]. The weights are learned."""

    uses_pooled = False

    def __init__(self, config, num_outputs, dropout=0.1):
        super().__init__()
        self.weight = nn.Linear(config.hidden_size, 1)
        self.dropout = nn.Dropout(dropout)
        self.scores = nn.Linear(config.hidden_size, num_outputs)

    def forward(self, hidden, pooled, mask):
        """Score (B, S, H) with a mask (B, S), True at real tokens: (B, L)."""
        weight = self.weight(hidden)[..., 0]
        if mask is not None:
            weight = weight.masked_fill(~mask, -torch.inf)
        return self.scores(self.dropout((weight.softmax(1)[:, None] @ hidden)[:, 0]))


@dataclass(frozen=True)
class Margin:
    """The score of the gold class must exceed that of any other by a margin; Crammer and Singer 2001."""

    margin: float = 1.0

    def losses(self, logits, targets):
        """Return (N,) the loss of each item, from scores (N, L) and gold classes (N,)."""
        gold = logits.gather(1, targets[:, None])[:, 0]
        others = logits.scatter(1, targets[:, None], -torch.inf).amax(1)
        return (self.margin + others - gold).relu()
