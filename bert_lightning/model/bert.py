"""The assembled models: the encoder with the heads of a task."""

from typing import NamedTuple

from torch import Tensor, nn

from bert_lightning.model.config import BertConfig
from bert_lightning.model.encoder import BertEncoder, initialize
from bert_lightning.model.heads import MaskedLanguageModelHead
from bert_lightning.model.pretrained import PretrainedModel


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
        super().__init__()
        self.config = config
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
    ) -> PretrainingOutput:
        """(B, S) x 3 -> (B, S, V), (B, 2).

        With `masked_positions` (M,), indices into the flattened B * S tokens, only those are scored: (M, V).
        """
        hidden, pooled = self.encoder(input_ids, token_type_ids, attention_mask)
        if masked_positions is not None:
            hidden = hidden.flatten(0, 1)[masked_positions]
        return PretrainingOutput(self.mlm_head(hidden, self.encoder.embeddings.word.weight), self.nsp_head(pooled))


class BertForSequenceClassification(PretrainedModel):
    """Encoder with dropout and one linear layer on the pooled [CLS]; `run_classifier.py: create_model`."""

    architecture = "BertForSequenceClassification"

    def __init__(self, config: BertConfig, num_labels: int = 2, classifier_dropout: float = 0.1) -> None:
        super().__init__()
        self.config = config
        self.encoder = BertEncoder(config)
        self.dropout = nn.Dropout(classifier_dropout)
        self.classifier = nn.Linear(config.hidden_size, num_labels)
        initialize(self.classifier, config.initializer_range)

    def forward(
        self, input_ids: Tensor, token_type_ids: Tensor | None = None, attention_mask: Tensor | None = None
    ) -> Tensor:
        """(B, S) x 3 -> (B, num_labels)."""
        return self.classifier(self.dropout(self.encoder(input_ids, token_type_ids, attention_mask).pooler_output))
