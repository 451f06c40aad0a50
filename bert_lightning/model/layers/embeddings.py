"""The input of the first block: word + segment + position embeddings, then LayerNorm and dropout."""

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bert_lightning.model.layers.dropout import Dropout
from bert_lightning.model.layers.norm import LayerNorm
from bert_lightning.model.parts import PartTable

if TYPE_CHECKING:
    from bert_lightning.model.config import BertConfig


class LearnedPositions(nn.Embedding):
    """A trained vector for each position, as published."""

    def __init__(self, config: "BertConfig") -> None:
        super().__init__(config.max_position_embeddings, config.embedding_width)


class SinusoidalPositions(nn.Module):
    """Sine and cosine of the position at several wavelengths; Vaswani et al. 2017, section 3.5.

    Attributes:
        table: (positions, E).
    """

    table: Tensor

    def __init__(self, config: "BertConfig") -> None:
        super().__init__()
        table = sinusoidal_positions(config.max_position_embeddings, config.embedding_width)
        self.register_buffer("table", table, persistent=False)

    def forward(self, positions: Tensor) -> Tensor:
        """Embed (...) as (..., E)."""
        return F.embedding(positions, self.table)


class NoPositions(nn.Module):
    """No position embeddings: the encoder cannot tell orders of the same tokens apart."""

    def __init__(self, config: "BertConfig") -> None:
        super().__init__()


POSITION_EMBEDDINGS: PartTable[type[nn.Module]] = PartTable(
    "the position embedding",
    nn.Module,
    {"learned": LearnedPositions, "sinusoidal": SinusoidalPositions, "none": NoPositions},
)
"""Value of `position_embeddings` -> the class."""


def register_position_embedding(name: str, embedding: type[nn.Module]) -> None:
    """Add a position embedding, which `position_embeddings` can then name.

    Args:
        name: its name, which checkpoints hold.
        embedding: a subclass of `nn.Module`. It is built with the architecture. Its `forward` takes positions (S,) or
            packed (T,), from 0 to `max_position_embeddings` - 1, and returns (S, E) or (T, E), which is added to the
            word embeddings. Its parameters are named `encoder.embeddings.position.<...>`.

    Raises:
        ValueError: the name is taken, or the class is not a module.

    >>> class Slope(nn.Module):
    ...     def __init__(self, config):
    ...         super().__init__()
    ...         self.slope = nn.Parameter(torch.zeros(config.embedding_width))
    ...
    ...     def forward(self, positions):
    ...         return positions[:, None] * self.slope
    >>> register_position_embedding("slope", Slope)
    """
    POSITION_EMBEDDINGS.register(name, embedding)


class BertEmbeddings(nn.Module):
    """Embedding of ids (B, S) or (T,) as (B, S, H) or (T, H).

    The original is `modeling.py: embedding_lookup, embedding_postprocessor`.
    """

    projection: nn.Linear | None
    prompt: nn.Parameter | None

    def __init__(self, config: "BertConfig") -> None:
        super().__init__()
        width = config.embedding_width
        self.word = nn.Embedding(config.vocab_size, width)
        arguments = config.arguments_of("position_embeddings")
        self.position = POSITION_EMBEDDINGS.make(
            "position_embeddings", config.position_embeddings, config, **arguments
        )
        self.adds_positions = not isinstance(self.position, NoPositions)
        self.token_type = nn.Embedding(config.type_vocab_size, width)
        self.layer_norm = LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)
        self.projection = nn.Linear(width, config.hidden_size) if width != config.hidden_size else None
        self.max_positions = config.max_position_embeddings
        # (L, H), the vectors that prompt tuning puts in front of the embedded tokens (`BertEncoder`).
        self.register_parameter("prompt", None)

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
            segments = self._embed_segments(token_type_ids)
        hidden = self.word(input_ids) + segments
        if self.adds_positions:
            if positions is None:
                positions = torch.arange(input_ids.shape[-1], device=input_ids.device)
            hidden = hidden + self.position(positions).to(hidden.dtype)
        hidden = self.dropout(self.layer_norm(hidden))
        return hidden if self.projection is None else self.projection(hidden)

    def _embed_segments(self, token_type_ids: Tensor) -> Tensor:
        """Embed segments, (...) as (..., E).

        Thousands of tokens share each of the two rows. On an accelerator, the backward pass of a lookup adds up their
        gradients one after the other. A choice between the two rows has a fast sum instead.
        """
        weight = self.token_type.weight
        if weight.device.type == "cpu" or len(weight) != 2:
            segments: Tensor = self.token_type(token_type_ids)
            return segments
        return torch.where(token_type_ids[..., None] > 0, weight[1], weight[0])


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
    """Check ids on a CPU, where torch's own error does not name the id. Elsewhere this would wait for the device."""
    if ids.device.type != "cpu" or torch.compiler.is_compiling() or not ids.numel():
        return
    lowest, highest = ids.aminmax()
    if lowest < 0 or highest >= size:
        index = ((ids < 0) | (ids >= size)).nonzero()[0].tolist()
        raise ValueError(f"{name}{index} is {int(ids[tuple(index)])}, outside {what} (0 to {size - 1})")
