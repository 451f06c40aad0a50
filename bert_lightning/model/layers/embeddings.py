"""The input of the first block: word + segment + position embeddings, then LayerNorm and dropout."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bert_lightning.model.config import BertConfig
from bert_lightning.model.layers.dropout import Dropout


class BertEmbeddings(nn.Module):
    """Embedding of ids (B, S) or (T,) as (B, S, H) or (T, H).

    The original is `modeling.py: embedding_lookup, embedding_postprocessor`.
    """

    position: nn.Embedding | None
    sinusoids: Tensor | None
    projection: nn.Linear | None

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        width = config.embedding_width
        self.word = nn.Embedding(config.vocab_size, width)
        learned = config.position_embeddings == "learned"
        self.position = nn.Embedding(config.max_position_embeddings, width) if learned else None
        sinusoidal = config.position_embeddings == "sinusoidal"
        table = sinusoidal_positions(config.max_position_embeddings, width) if sinusoidal else None
        self.register_buffer("sinusoids", table, persistent=False)
        self.token_type = nn.Embedding(config.type_vocab_size, width)
        self.layer_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)
        self.projection = nn.Linear(width, config.hidden_size) if width != config.hidden_size else None
        self.max_positions = config.max_position_embeddings

    def forward(self, input_ids: Tensor, token_type_ids: Tensor | None, positions: Tensor | None = None) -> Tensor:
        """Embed (B, S) x 2 as (B, S, H), or packed (T,) x 2 with the `positions` (T,) of the tokens as (T, H).

        Raises:
            ValueError: on a CPU, an id is not in its table; the message names its index and the id.
        """
        _check_ids("input_ids", input_ids, self.word.num_embeddings, "the vocabulary")
        if token_type_ids is None:
            segments = self.token_type.weight[0]
        else:
            _check_ids("token_type_ids", token_type_ids, self.token_type.num_embeddings, "the segments")
            segments = self.token_type(token_type_ids)
        hidden = self.word(input_ids) + segments
        table = self.position.weight if self.position is not None else self.sinusoids
        if table is not None:
            # Not plain indexing, whose gradients torch sums in any order.
            rows = table[: input_ids.shape[-1]] if positions is None else F.embedding(positions, table)
            hidden = hidden + rows.to(hidden.dtype)
        hidden = self.dropout(self.layer_norm(hidden))
        return hidden if self.projection is None else self.projection(hidden)


def sinusoidal_positions(num_positions: int, width: int) -> Tensor:
    """Return (num_positions, width) in float64: sin(p / 10000^(2i / width)) in column 2i, cos in column 2i + 1.

    Vaswani et al. 2017 (arXiv 1706.03762), section 3.5.
    """
    positions = torch.arange(num_positions, dtype=torch.float64)[:, None]
    even = torch.arange(0, width, 2, dtype=torch.float64)
    angles = positions * torch.exp(even * (-math.log(10000.0) / width))
    table = torch.zeros(num_positions, width, dtype=torch.float64)
    table[:, 0::2], table[:, 1::2] = angles.sin(), angles.cos()[:, : width // 2]
    return table


def _check_ids(name: str, ids: Tensor, size: int, what: str) -> None:
    """Check ids on a CPU, where torch's own error does not name the id. On an accelerator reading them would wait."""
    if ids.device.type != "cpu" or torch.compiler.is_compiling() or not ids.numel():
        return
    lowest, highest = ids.aminmax()
    if lowest < 0 or highest >= size:
        index = ((ids < 0) | (ids >= size)).nonzero()[0].tolist()
        raise ValueError(f"{name}{index} is {int(ids[tuple(index)])}, outside {what} (0 to {size - 1})")
