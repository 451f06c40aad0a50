"""Transformer blocks. Their classes differ in the placement of the LayerNorms."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor, nn

from bert_lightning.model.layers.activations import ACTIVATIONS
from bert_lightning.model.layers.attention import ATTENTIONS, AttentionOutput, Backend, Layout, attend_with
from bert_lightning.model.layers.dropout import Dropout
from bert_lightning.model.layers.norm import LayerNorm
from bert_lightning.model.parts import PartTable

if TYPE_CHECKING:
    from bert_lightning.model.config import BertConfig

Sublayer = Callable[[Tensor], Tensor]
"""Attention or feed-forward network of a block: keeps the shape, (B, S, H) or (T, H)."""


class BertLayer(nn.Module):
    """One Transformer block with LayerNorm after each sum, as published; paper section 3, Vaswani et al. 2017.

    A subclass with its own `combine` is another norm placement (`register_norm_placement`). It may have modules of
    its own, which it adds in its constructor.

    Attributes:
        final_norm: whether the encoder applies LayerNorm once more after the last block.
        column_parallel: names of the column-parallel linear layers, with the number of matrices stacked in each.
        row_parallel: names of the row-parallel linear layers; the column-parallel ones feed them.
        head_parallel: names of modules whose parameters (..., H) are cut by heads; a block may lack them.
        prefix: computes the attention with trained keys and values in front; None without `prefix` tuning.
        attention_adapter: changes the output of the attention; None without adapters. It gets that output, the input
            of the sublayer, and the LayerNorm that belongs to it.
        output_adapter: the same for the feed-forward network.
        draws_apart: context manager for attention dropout under tensor parallelism: each process has some of the
            heads and draws its own masks.
        records: whether `forward` stores its queries, keys and values (`BertEncoder.recorded`).
        query_key_value_output: (B, S, 3 H) or (T, 3 H), those that were stored.
    """

    final_norm: ClassVar[bool] = False
    column_parallel: ClassVar = {"query_key_value": 3, "intermediate": 1}
    row_parallel: ClassVar = ("attention_output", "output")
    head_parallel: ClassVar = ("prefix",)
    draws_apart: Callable[[], AbstractContextManager[None]] = nullcontext

    def __init__(self, config: "BertConfig") -> None:
        super().__init__()
        hidden = config.hidden_size
        self.query_key_value = nn.Linear(hidden, 3 * hidden)
        self.attention_output = nn.Linear(hidden, hidden)
        self.attention_norm = self.new_norm(config)
        self.intermediate = nn.Linear(hidden, config.intermediate_size)
        self.output = nn.Linear(config.intermediate_size, hidden)
        self.output_norm = self.new_norm(config)
        self.dropout = Dropout(config.hidden_dropout_prob)
        self.num_heads = config.num_attention_heads
        self.records = False
        self.query_key_value_output: Tensor | None = None
        self.attention_dropout = config.attention_probs_dropout_prob
        self.activation = ACTIVATIONS.make("hidden_act", config.hidden_act, **config.arguments_of("hidden_act"))
        self.attention = (
            ATTENTIONS.make("attention", config.attention, config, **config.arguments_of("attention"))
            if config.has_own_attention
            else None
        )
        self.prefix: Callable[..., AttentionOutput] | None = None
        self.attention_adapter: Callable[[Tensor, Tensor, nn.Module], Tensor] | None = None
        self.output_adapter: Callable[[Tensor, Tensor, nn.Module], Tensor] | None = None

    @staticmethod
    def new_norm(config: "BertConfig") -> nn.Module:
        """Return a normalisation of (..., H); `nn.Identity()` in a placement without it."""
        return LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def combine(self, hidden: Tensor, attention: Sublayer, feed_forward: Sublayer) -> Tensor:
        """Return the output of the block, with the shape of its input, (B, S, H) or (T, H).

        Here x = LN(x + attention(x)), then x = LN(x + feed_forward(x)). Dropout is part of the two functions.
        """
        hidden = self.attention_norm(hidden + attention(hidden))
        normed: Tensor = self.output_norm(hidden + feed_forward(hidden))
        return normed

    def forward(self, hidden: Tensor, layout: Layout, backend: Backend) -> tuple[Tensor, Tensor | None]:
        """Return the same shape, (B, S, H) or (T, H), and the attention weights if the backend returns them."""
        weights: list[Tensor | None] = [None]

        def attention(values: Tensor) -> Tensor:
            context, weights[0] = self._attention(values, layout, backend)
            return context

        return self.combine(hidden, attention, self._feed_forward), weights[0]

    def _attention(self, hidden: Tensor, layout: Layout, backend: Backend) -> tuple[Tensor, Tensor | None]:
        dropout = self.attention_dropout if self.training else 0.0
        query_key_value = self.query_key_value(hidden)
        if self.records:
            self.query_key_value_output = query_key_value

        def attend(rows: Tensor, inner: Layout) -> AttentionOutput:
            if self.attention is None:
                return backend.attend(rows, inner, self.num_heads, dropout)
            return attend_with(self.attention, rows, inner, self.num_heads, dropout)

        prefix = self.prefix
        with self.draws_apart() if dropout or (prefix is not None and self.training) else nullcontext():
            context, weights = (
                attend(query_key_value, layout) if prefix is None else prefix(attend, query_key_value, layout)
            )
        projected: Tensor = self.dropout(self.attention_output(context))
        if self.attention_adapter is not None:
            projected = self.attention_adapter(projected, hidden, self.attention_norm)
        return projected, weights

    def _feed_forward(self, hidden: Tensor) -> Tensor:
        projected: Tensor = self.dropout(self.output(self.activation(self.intermediate(hidden))))
        if self.output_adapter is not None:
            projected = self.output_adapter(projected, hidden, self.output_norm)
        return projected


class PreNormLayer(BertLayer):
    """Block with LayerNorm inside the residual branches; Xiong et al. 2020 (arXiv 2002.04745)."""

    final_norm = True

    def combine(self, hidden: Tensor, attention: Sublayer, feed_forward: Sublayer) -> Tensor:
        """Return y + feed_forward(LN(y)) with y = x + attention(LN(x))."""
        hidden = hidden + attention(self.attention_norm(hidden))
        return hidden + feed_forward(self.output_norm(hidden))


NORM_PLACEMENTS: PartTable[type[BertLayer]] = PartTable(
    "the norm placement", BertLayer, {"post": BertLayer, "pre": PreNormLayer}
)
"""Value of `norm_placement` -> the class of the blocks."""


def register_norm_placement(name: str, block: type[BertLayer]) -> None:
    """Add a norm placement, which `norm_placement` can then name.

    Args:
        name: its name, which checkpoints hold.
        block: a subclass of `BertLayer` with its own `combine`; it is built with the architecture.

    Raises:
        ValueError: the name is taken, or the class is not a block.

    >>> class Sandwich(BertLayer):
    ...     def __init__(self, config):
    ...         super().__init__(config)
    ...         self.attention_end_norm, self.output_end_norm = self.new_norm(config), self.new_norm(config)
    ...
    ...     def combine(self, hidden, attention, feed_forward):
    ...         hidden = hidden + self.attention_end_norm(attention(self.attention_norm(hidden)))
    ...         return hidden + self.output_end_norm(feed_forward(self.output_norm(hidden)))
    >>> register_norm_placement("sandwich", Sandwich)
    """
    NORM_PLACEMENTS.register(name, block)
