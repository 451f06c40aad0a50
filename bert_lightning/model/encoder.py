"""The encoder backbone that every task shares: embeddings, post-LN Transformer blocks, pooler."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bert_lightning.model.attention import self_attention
from bert_lightning.model.config import BertConfig
from bert_lightning.model.embeddings import BertEmbeddings
from bert_lightning.model.pretrained import PretrainedModel


class EncoderOutput(NamedTuple):
    """What the encoder gives: every token, and the sequence as one vector."""

    last_hidden_state: Tensor
    """(B, S, H)"""
    pooler_output: Tensor
    """(B, H)"""


class BertLayer(nn.Module):
    """One post-LN block: x = LN(x + attention(x)), x = LN(x + feed_forward(x)); paper section 3, Vaswani 2017."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        hidden = config.hidden_size
        self.query_key_value = nn.Linear(hidden, 3 * hidden)
        self.attention_output = nn.Linear(hidden, hidden)
        self.attention_norm = nn.LayerNorm(hidden, eps=config.layer_norm_eps)
        self.intermediate = nn.Linear(hidden, config.intermediate_size)
        self.output = nn.Linear(config.intermediate_size, hidden)
        self.output_norm = nn.LayerNorm(hidden, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.num_heads = config.num_attention_heads
        self.attention_dropout = config.attention_probs_dropout_prob
        self.gelu_form = gelu_form(config)

    def forward(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """(B, S, H), mask (B, 1, 1, S) -> (B, S, H)."""
        dropout = self.attention_dropout if self.training else 0.0
        context = self_attention(self.query_key_value(hidden), mask, self.num_heads, dropout)
        hidden = self.attention_norm(hidden + self.dropout(self.attention_output(context)))
        expanded = F.gelu(self.intermediate(hidden), approximate=self.gelu_form)
        return self.output_norm(hidden + self.dropout(self.output(expanded)))


class BertEncoder(PretrainedModel):
    """BERT without a head: (B, S) ids -> hidden states (B, S, H) and the pooled [CLS] (B, H)."""

    architecture = "BertModel"
    prefix = "encoder."

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = BertEmbeddings(config)
        self.layers = nn.ModuleList(BertLayer(config) for _ in range(config.num_hidden_layers))
        self.pooler = nn.Linear(config.hidden_size, config.hidden_size)
        initialize(self, config.initializer_range)

    def forward(
        self, input_ids: Tensor, token_type_ids: Tensor | None = None, attention_mask: Tensor | None = None
    ) -> EncoderOutput:
        """(B, S) x 3 -> (B, S, H), (B, H).

        `attention_mask` is nonzero at real tokens; None means that nothing is padded. The pooled vector is
        tanh(W h_[CLS] + b).
        """
        mask = None if attention_mask is None else attention_mask.to(torch.bool)[:, None, None, :]
        hidden = self.embeddings(input_ids, token_type_ids)
        for layer in self.layers:
            hidden = layer(hidden, mask)
        return EncoderOutput(hidden, torch.tanh(self.pooler(hidden[:, 0])))


def gelu_form(config: BertConfig) -> str:
    """The name that `torch.nn.functional.gelu` gives to the configured form."""
    return "tanh" if config.hidden_act == "gelu_new" else "none"


def initialize(module: nn.Module, standard_deviation: float) -> None:
    """Draw all weights as the original does: truncated normal cut at two deviations, biases 0, LayerNorm 1 and 0.

    `modeling.py: create_initializer` (tf.truncated_normal_initializer).
    """
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            limit = 2 * standard_deviation
            nn.init.trunc_normal_(part.weight, std=standard_deviation, a=-limit, b=limit)
        if isinstance(part, nn.Linear):
            nn.init.zeros_(part.bias)
        if isinstance(part, nn.LayerNorm):
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)
