"""What turns encoder outputs into scores. A linear layer alone needs no class of its own."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bert_lightning.model.config import BertConfig
from bert_lightning.model.encoder import gelu_form


class MaskedLanguageModelHead(nn.Module):
    """(..., H) -> (..., V): dense, GELU, LayerNorm, then the transposed word embeddings plus a bias of its own.

    `run_pretraining.py: get_masked_lm_output`. The embedding matrix is passed in, so it is tied by construction.
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.gelu_form = gelu_form(config)

    def forward(self, hidden: Tensor, word_embeddings: Tensor) -> Tensor:
        """(..., H) and (V, H) -> (..., V)."""
        transformed = self.layer_norm(F.gelu(self.dense(hidden), approximate=self.gelu_form))
        return F.linear(transformed, word_embeddings, self.bias)
