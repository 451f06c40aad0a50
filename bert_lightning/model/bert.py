"""Models for pre-training: the encoder with the masked-language-model head, the next-sentence head, or both.

All take `input_ids`, `token_type_ids` and `attention_mask`, each (B, S), or two packed inputs (T,) with their
`packing`. With packed input the outputs are (T, ...) instead of (B, S, ...) and (n, ...) instead of (B, ...).
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bert_lightning.model.config import BertConfig
from bert_lightning.model.encoder import BertEncoder
from bert_lightning.model.encoder_output import EncoderOutput
from bert_lightning.model.initialization import initialize
from bert_lightning.model.layers.activations import ACTIVATIONS
from bert_lightning.model.layers.norm import LayerNorm
from bert_lightning.model.layers.packing import Packing, round_size
from bert_lightning.model.layers.token_loss import TokenLoss, token_loss
from bert_lightning.model.losses import IGNORED
from bert_lightning.model.pretrained import PretrainedModel


class MaskedLanguageModelHead(nn.Module):
    """Scores (..., V) of hidden states (..., H): dense, activation, LayerNorm, then a linear layer to the vocabulary.

    The original is `run_pretraining.py: get_masked_lm_output`. The weights of the last layer are the word embeddings,
    which the caller passes in. If `tie_word_embeddings` is False, the head has its own matrix and ignores them.
    """

    decoder: nn.Linear | None

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        width = config.embedding_width
        self.dense = nn.Linear(config.hidden_size, width)
        self.layer_norm = LayerNorm(width, eps=config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.decoder = None if config.tie_word_embeddings else nn.Linear(width, config.vocab_size, bias=False)
        self.activation = ACTIVATIONS.make("hidden_act", config.hidden_act, **config.arguments_of("hidden_act"))

    def forward(self, hidden: Tensor, word_embeddings: Tensor) -> Tensor:
        """Return scores (..., V) of hidden states (..., H) for the word embeddings (V, E)."""
        return F.linear(self._transform(hidden), self._matrix(word_embeddings), self.bias)

    def loss(self, hidden: Tensor, word_embeddings: Tensor, labels: Tensor) -> TokenLoss:
        """Return the summed cross-entropy of (M, H), (V, E) and labels (M,), without a float32 copy of the scores.

        M is rounded up with rows of zeros, which are ignored, so that shapes repeat.
        """
        rest = round_size(len(hidden)) - len(hidden) if not torch.compiler.is_compiling() else 0
        hidden, labels = F.pad(hidden, (0, 0, 0, rest)), F.pad(labels, (0, rest), value=IGNORED)
        return token_loss(self._transform(hidden), self._matrix(word_embeddings), self.bias, labels)

    def _transform(self, hidden: Tensor) -> Tensor:
        transformed: Tensor = self.layer_norm(self.activation(self.dense(hidden)))
        return transformed

    def _matrix(self, word_embeddings: Tensor) -> Tensor:
        return word_embeddings if self.decoder is None else self.decoder.weight


class PretrainingOutput(NamedTuple):
    """Scores of the two pre-training objectives."""

    prediction_logits: Tensor
    """(B, S, V), or (M, V) if masked positions were given"""
    seq_relationship_logits: Tensor
    """(B, 2); index 0 means that B follows A"""


class BertForPreTraining(PretrainedModel):
    """Encoder with the masked-language-model head and the next-sentence head.

    >>> model = BertForPreTraining(BertConfig.preset("tiny", vocab_size=100))
    >>> output = model(torch.randint(100, (2, 8)))
    >>> tuple(output.prediction_logits.shape), tuple(output.seq_relationship_logits.shape)
    ((2, 8, 100), (2, 2))
    """

    architecture = "BertForPreTraining"

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.encoder = BertEncoder(config)
        self.mlm_head = MaskedLanguageModelHead(config)
        self.nsp_head = nn.Linear(config.hidden_size, 2)
        initialize(self.mlm_head, config.initializer_range)
        initialize(self.nsp_head, config.initializer_range)

    def forward(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        masked_positions: Tensor | None = None,
        packing: Packing | None = None,
    ) -> PretrainingOutput:
        """Return scores (B, S, V) and (B, 2) for three inputs of (B, S).

        With `masked_positions` (M,), only these tokens are scored: (M, V). They are indices into the B * S tokens of
        the flattened input, or into the T packed tokens.
        """
        encoded = self.encoder(input_ids, token_type_ids, attention_mask, packing)
        hidden = _select(encoded, masked_positions)
        scores = self.mlm_head(hidden, self.encoder.embeddings.word.weight)
        return PretrainingOutput(scores, self.nsp_head(encoded.pooler_output))

    def losses(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor | None,
        attention_mask: Tensor | None,
        masked_positions: Tensor,
        masked_labels: Tensor,
        packing: Packing | None = None,
    ) -> tuple[TokenLoss, Tensor]:
        """Return the loss of the masked tokens and the next-sentence scores (B, 2), in less memory than `forward`."""
        encoded = self.encoder(input_ids, token_type_ids, attention_mask, packing)
        hidden = _select(encoded, masked_positions)
        masked = self.mlm_head.loss(hidden, self.encoder.embeddings.word.weight, masked_labels)
        return masked, self.nsp_head(encoded.pooler_output)


class BertForMaskedLM(PretrainedModel):
    """Encoder with only the masked-language-model head."""

    architecture = "BertForMaskedLM"
    uses_pooled = False

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.encoder = BertEncoder(config.replace(pooler=False))
        self.mlm_head = MaskedLanguageModelHead(config)
        initialize(self.mlm_head, config.initializer_range)

    def forward(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        masked_positions: Tensor | None = None,
        packing: Packing | None = None,
    ) -> Tensor:
        """Return scores (B, S, V) for three inputs of (B, S), or (M, V) with `masked_positions`.

        These are as in `BertForPreTraining`.
        """
        encoded = self.encoder(input_ids, token_type_ids, attention_mask, packing)
        return self.mlm_head(_select(encoded, masked_positions), self.encoder.embeddings.word.weight)

    def losses(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor | None,
        attention_mask: Tensor | None,
        masked_positions: Tensor,
        masked_labels: Tensor,
        packing: Packing | None = None,
    ) -> tuple[TokenLoss, None]:
        """Return the loss of the masked tokens, as in `BertForPreTraining`. There is no second score."""
        encoded = self.encoder(input_ids, token_type_ids, attention_mask, packing)
        hidden = _select(encoded, masked_positions)
        return self.mlm_head.loss(hidden, self.encoder.embeddings.word.weight, masked_labels), None


class BertForNextSentencePrediction(PretrainedModel):
    """Encoder with only the next-sentence head."""

    architecture = "BertForNextSentencePrediction"

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.encoder = BertEncoder(config)
        self.nsp_head = nn.Linear(config.hidden_size, 2)
        initialize(self.nsp_head, config.initializer_range)

    def forward(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        packing: Packing | None = None,
    ) -> Tensor:
        """Return scores (B, 2) for three inputs of (B, S); index 0 means that B follows A."""
        return self.nsp_head(self.encoder(input_ids, token_type_ids, attention_mask, packing).pooler_output)


def _select(encoded: EncoderOutput, indices: Tensor | None) -> Tensor:
    """Return the hidden states (M, H) at indices (M,) into all tokens, or all of them if there are no indices."""
    hidden = encoded.last_hidden_state
    return hidden if indices is None else hidden.flatten(0, -2)[indices]
