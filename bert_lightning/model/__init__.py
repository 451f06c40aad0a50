"""BERT in pure PyTorch, independent of Lightning, data and tokenizers.

Letters in shapes: B batch size, S sequence length, H hidden size, E embedding width, N heads, D head width,
V vocabulary size, L labels, M masked positions. Packed input has T tokens in n sequences.
"""

from bert_lightning.model.bert import BertForMaskedLM, BertForNextSentencePrediction, BertForPreTraining
from bert_lightning.model.config import PRESETS, BertConfig
from bert_lightning.model.encoder import BertEncoder
from bert_lightning.model.heads import register_head
from bert_lightning.model.layers.activations import register_activation
from bert_lightning.model.layers.attention import register_attention
from bert_lightning.model.layers.block import BertLayer, register_norm_placement
from bert_lightning.model.layers.crf import LinearChainCRF
from bert_lightning.model.layers.embeddings import register_position_embedding
from bert_lightning.model.layers.packing import Packing
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
    "BertLayer",
    "LinearChainCRF",
    "Packing",
    "register_activation",
    "register_attention",
    "register_head",
    "register_norm_placement",
    "register_position_embedding",
]
