"""What turns encoder outputs into scores. A linear layer alone needs no class of its own."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bert_lightning.model.config import BertConfig
from bert_lightning.model.encoder import ACTIVATIONS
from bert_lightning.model.token_loss import TokenLoss, token_loss


class MaskedLanguageModelHead(nn.Module):
    """(..., H) -> (..., V): dense, GELU, LayerNorm, then the transposed word embeddings plus a bias of its own.

    `run_pretraining.py: get_masked_lm_output`. The embedding matrix is passed in, so it is tied by construction;
    with `tie_word_embeddings` False the head has a matrix of its own and leaves that one alone.
    """

    decoder: nn.Linear | None

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        width = config.embedding_width
        self.dense = nn.Linear(config.hidden_size, width)
        self.layer_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.decoder = None if config.tie_word_embeddings else nn.Linear(width, config.vocab_size, bias=False)
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, hidden: Tensor, word_embeddings: Tensor) -> Tensor:
        """(..., H) and (V, E) -> (..., V)."""
        return F.linear(self._transformed(hidden), self._matrix(word_embeddings), self.bias)

    def loss(self, hidden: Tensor, word_embeddings: Tensor, labels: Tensor) -> TokenLoss:
        """(M, H), (V, E) and labels (M,) -> the summed cross-entropy, without a float32 copy of the (M, V) scores."""
        return token_loss(self._transformed(hidden), self._matrix(word_embeddings), self.bias, labels)

    def _transformed(self, hidden: Tensor) -> Tensor:
        transformed: Tensor = self.layer_norm(self.activation(self.dense(hidden)))
        return transformed

    def _matrix(self, word_embeddings: Tensor) -> Tensor:
        return word_embeddings if self.decoder is None else self.decoder.weight
