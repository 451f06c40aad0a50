"""One custom part of each kind, as a user would write it."""

import torch
from torch import Tensor, nn

from bert_lightning.model import BertConfig, BertLayer


def squared_relu(values: Tensor, factor: float = 1.0) -> Tensor:
    """So et al. 2021 (arXiv 2109.08668)."""
    return factor * values.relu().square()


class Swish(nn.Module):
    """x sigmoid(b x) with a trained b; Ramachandran et al. 2017 (arXiv 1710.05941)."""

    def __init__(self, start: float = 1.0) -> None:
        super().__init__()
        self.b = nn.Parameter(torch.full((1,), start))

    def forward(self, values: Tensor) -> Tensor:
        return values * (self.b * values).sigmoid()


class Slope(nn.Module):
    """A trained direction, times the position."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.linspace(-0.1, 0.1, config.embedding_width))

    def forward(self, positions: Tensor) -> Tensor:
        return positions[:, None] * self.slope


class Sandwich(BertLayer):
    """LayerNorm at both ends of each residual branch; Ding et al. 2021 (arXiv 2105.13290), section 2.3."""

    final_norm = True

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.attention_end_norm, self.output_end_norm = self.new_norm(config), self.new_norm(config)

    def combine(self, hidden, attention, feed_forward):
        hidden = hidden + self.attention_end_norm(attention(self.attention_norm(hidden)))
        return hidden + self.output_end_norm(feed_forward(self.output_norm(hidden)))


class Parallel(BertLayer):
    """Attention and feed-forward network side by side, without LayerNorm, scaled by a trained number."""

    def __init__(self, config: BertConfig, start: float = 0.5) -> None:
        super().__init__(config)
        self.scale = nn.Parameter(torch.full((1,), start))

    @staticmethod
    def new_norm(config):
        return nn.Identity()

    def combine(self, hidden, attention, feed_forward):
        return hidden + self.scale * (attention(hidden) + feed_forward(hidden))


def window(query, key, value, layout, dropout, width=2):
    """Attention to at most `width` tokens on each side."""
    positions = torch.arange(query.shape[2], device=query.device)
    near = (positions[:, None] - positions).abs() <= width
    if layout.mask is not None:
        near = near & layout.mask
    # A padded query may have no neighbour that is a token.
    scores = (query @ key.mT / query.shape[-1] ** 0.5).masked_fill(~near, torch.finfo(query.dtype).min)
    return torch.dropout(scores.softmax(-1), dropout, train=dropout > 0) @ value


class RelativeBias(nn.Module):
    """Attention with a trained bias per distance and head; Raffel et al. 2020 (arXiv 1910.10683), section 2.1."""

    def __init__(self, config: BertConfig, max_distance: int = 4) -> None:
        super().__init__()
        self.max_distance = max_distance
        self.bias = nn.Embedding(2 * max_distance + 1, config.num_attention_heads)

    def forward(self, query, key, value, layout, dropout):
        positions = torch.arange(query.shape[2], device=query.device)
        distance = (positions - positions[:, None]).clamp(-self.max_distance, self.max_distance) + self.max_distance
        scores = query @ key.mT / query.shape[-1] ** 0.5 + self.bias(distance).permute(2, 0, 1)
        if layout.mask is not None:
            scores = scores.masked_fill(~layout.mask, torch.finfo(scores.dtype).min)
        weights = scores.softmax(-1).to(value.dtype)
        return torch.dropout(weights, dropout, train=dropout > 0) @ value, weights


class Cumulative(nn.Module):
    """The mean over all tokens of a sequence, computed from packed sequences."""

    takes_packed = True

    def __init__(self, config: BertConfig) -> None:
        super().__init__()

    def forward(self, query, key, value, layout, dropout):
        numbers = layout.packing.sequence_numbers(len(value))
        sums = value.new_zeros(layout.packing.num_sequences, *value.shape[1:]).index_add(0, numbers, value)
        return (sums / layout.packing.lengths.clamp(min=1)[:, None, None])[numbers] + 0.1 * query


class Attentive(nn.Module):
    """Scores of a sequence from a weighted mean of its hidden states."""

    uses_pooled = False

    def __init__(self, config: BertConfig, num_outputs: int, width: int = 16) -> None:
        super().__init__()
        self.attention = nn.Sequential(nn.Linear(config.hidden_size, width), nn.Tanh(), nn.Linear(width, 1))
        self.output = nn.Linear(config.hidden_size, num_outputs)

    def forward(self, hidden: Tensor, pooled: Tensor, mask: Tensor | None) -> Tensor:
        scores = self.attention(hidden).squeeze(-1)
        if mask is not None:
            scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
        return self.output((scores.softmax(-1)[:, :, None] * hidden).sum(1))


class PerToken(nn.Module):
    """Scores of each token from its hidden state and the vector of its sequence."""

    def __init__(self, config: BertConfig, num_outputs: int) -> None:
        super().__init__()
        self.output = nn.Linear(2 * config.hidden_size, num_outputs)

    def forward(self, hidden: Tensor, pooled: Tensor, mask: Tensor | None) -> Tensor:
        return self.output(torch.cat([hidden, pooled[:, None].expand_as(hidden)], -1))


class OfVector(nn.Module):
    """Scores from the vector that the linear head reads, with one layer more."""

    def __init__(self, config: BertConfig, num_outputs: int, inputs: int | None = None) -> None:
        super().__init__()
        inputs = inputs or config.hidden_size
        self.layers = nn.Sequential(nn.Linear(inputs, 8), nn.Tanh(), nn.Linear(8, num_outputs))

    def forward(self, hidden: Tensor, pooled: Tensor, mask: Tensor | None) -> Tensor:
        return self.layers(pooled)
