"""The models of pre-training: the encoder with the masked-language-model head, the next-sentence head, or both.

All take `input_ids`, `token_type_ids` and `attention_mask`, each (B, S), or packed tokens (T,) x 2 with their
`packing`; outputs are then (T, ...) in place of (B, S, ...) and (n, ...) in place of (B, ...).
"""

from typing import NamedTuple

from torch import Tensor, nn

from bert_lightning.model.config import BertConfig
from bert_lightning.model.encoder import BertEncoder, EncoderOutput, initialize
from bert_lightning.model.heads import MaskedLanguageModelHead
from bert_lightning.model.packing import Packing
from bert_lightning.model.pretrained import PretrainedModel
from bert_lightning.model.token_loss import TokenLoss


class PretrainingOutput(NamedTuple):
    """Scores of the two pre-training objectives."""

    prediction_logits: Tensor
    """(B, S, V), or (M, V) when masked positions were given"""
    seq_relationship_logits: Tensor
    """(B, 2); index 0 = B follows A"""


class BertForPreTraining(PretrainedModel):
    """Encoder with the masked-language-model head (tied) and the next-sentence head."""

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
        """(B, S) x 3 -> (B, S, V), (B, 2).

        With `masked_positions` (M,), indices into the flattened B * S or the T packed tokens, only those are scored:
        (M, V).
        """
        encoded = self.encoder(input_ids, token_type_ids, attention_mask, packing)
        hidden = _at(encoded, masked_positions)
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
        """What training needs of `forward`, for less: the loss of the masked tokens, and the pairs' scores (B, 2)."""
        encoded = self.encoder(input_ids, token_type_ids, attention_mask, packing)
        hidden = _at(encoded, masked_positions)
        masked = self.mlm_head.loss(hidden, self.encoder.embeddings.word.weight, masked_labels)
        return masked, self.nsp_head(encoded.pooler_output)


class BertForMaskedLM(PretrainedModel):
    """Encoder with the masked-language-model head alone."""

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
        """(B, S) x 3 -> (B, S, V), or (M, V) with `masked_positions` as in `BertForPreTraining`."""
        encoded = self.encoder(input_ids, token_type_ids, attention_mask, packing)
        return self.mlm_head(_at(encoded, masked_positions), self.encoder.embeddings.word.weight)

    def losses(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor | None,
        attention_mask: Tensor | None,
        masked_positions: Tensor,
        masked_labels: Tensor,
        packing: Packing | None = None,
    ) -> tuple[TokenLoss, None]:
        """The loss of the masked tokens, as `BertForPreTraining` has it; there are no pairs."""
        encoded = self.encoder(input_ids, token_type_ids, attention_mask, packing)
        hidden = _at(encoded, masked_positions)
        return self.mlm_head.loss(hidden, self.encoder.embeddings.word.weight, masked_labels), None


class BertForNextSentencePrediction(PretrainedModel):
    """Encoder with the next-sentence head alone."""

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
        """(B, S) x 3 -> (B, 2); index 0 = B follows A."""
        return self.nsp_head(self.encoder(input_ids, token_type_ids, attention_mask, packing).pooler_output)


def _at(encoded: EncoderOutput, places: Tensor | None) -> Tensor:
    """The hidden states at indices (M,) into all tokens, (M, H); all of them without."""
    hidden = encoded.last_hidden_state
    return hidden if places is None else hidden.flatten(0, -2)[places]
