"""Prefix tuning: trained keys and values in the attention of every block."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from bert_lightning.checks import require_at_least, require_below_one
from bert_lightning.model.layers.attention import AttentionOutput, Layout
from bert_lightning.model.layers.dropout import dropout
from bert_lightning.model.layers.front import Front
from bert_lightning.model.tuning.tuning import Tuning

if TYPE_CHECKING:
    from bert_lightning.model.encoder import BertEncoder


@dataclass(frozen=True)
class Prefix(Tuning):
    """Trained keys and values in front of those of the tokens, in every block; P-tuning v2.

    Liu et al. 2022, arXiv 2110.07602. The settings are those of the authors' script for RTE, which trains the keys
    and values themselves, not a network that computes them. They begin standard normal, as in the authors' code, so
    training does not begin with the outputs of the base. Unlike there, the positions of the tokens do not move.

    BERT-base has 368,640 of these parameters with a length of 20. They cannot be merged into the weights.

    Attributes:
        length: the number of keys, and of values, in each block.
        dropout: dropout rate of the keys and values.
    """

    length: int = 20
    dropout: float = 0.1

    mergeable: ClassVar[bool] = False
    begins_as_base: ClassVar[bool] = False
    default_learning_rate: ClassVar[float | None] = 1e-2
    default_epochs: ClassVar[float | None] = 60

    def __post_init__(self) -> None:
        require_at_least(self, 1, "length")
        require_below_one(self, "dropout")

    def apply(self, encoder: "BertEncoder") -> None:
        like = encoder.embeddings.word.weight
        for block in encoder.layers:
            block.prefix = KeysAndValues(self.length, encoder.config.hidden_size, self.dropout).to(like)


class KeysAndValues(nn.Module):
    """Keys and values (L, H) that every token of every sequence attends to.

    Tensor parallelism cuts both by heads, which are stretches of H.
    """

    def __init__(self, length: int, hidden_size: int, dropout_probability: float) -> None:
        super().__init__()
        self.key = nn.Parameter(torch.randn(length, hidden_size))
        self.value = nn.Parameter(torch.randn(length, hidden_size))
        self.dropout_probability = dropout_probability

    def forward(
        self, attend: Callable[[Tensor, Layout], AttentionOutput], query_key_value: Tensor, layout: Layout
    ) -> AttentionOutput:
        """Compute attention with the keys and values in front of each sequence.

        They are rows of `query_key_value` with a query of zeros, whose context is thrown away. So every backend
        computes them as it computes tokens. The weights that are returned are those between tokens.

        Args:
            attend: computes attention over the longer sequences.
            query_key_value: (B, S, 3 H) or (T, 3 H).
            layout: the arrangement of the sequences.
        """
        front = Front.of(query_key_value, layout, len(self.key))
        keys_and_values = torch.cat([self.key, self.value], -1).expand(front.num_sequences, -1, -1)
        if self.training:
            keys_and_values = dropout(keys_and_values, self.dropout_probability)
        queries = keys_and_values.new_zeros(front.num_sequences, *self.key.shape)
        rows = front.join(torch.cat([queries, keys_and_values], -1), query_key_value)
        context, weights = attend(rows, front.layout)
        return AttentionOutput(front.remove(context), None if weights is None else front.between_tokens(weights))
