"""Pure PyTorch BERT: knows nothing of Lightning, data or tokenizers.

Shapes everywhere: B batch, S sequence, H hidden, E embedding, N heads, D head width, V vocabulary, L labels, M masked
positions; T tokens of n packed sequences.
"""

from bert_lightning.model.bert import BertForMaskedLM, BertForNextSentencePrediction, BertForPreTraining
from bert_lightning.model.config import PRESETS, BertConfig
from bert_lightning.model.crf import LinearChainCRF
from bert_lightning.model.encoder import BertEncoder
from bert_lightning.model.packing import Packing
from bert_lightning.model.task_models import (
    BertForMultipleChoice,
    BertForQuestionAnswering,
    BertForRelationClassification,
    BertForSequenceClassification,
    BertForTokenClassification,
)

__all__ = [
    "PRESETS",
    "BertConfig",
    "BertEncoder",
    "BertForMaskedLM",
    "BertForMultipleChoice",
    "BertForNextSentencePrediction",
    "BertForPreTraining",
    "BertForQuestionAnswering",
    "BertForRelationClassification",
    "BertForSequenceClassification",
    "BertForTokenClassification",
    "LinearChainCRF",
    "Packing",
]
