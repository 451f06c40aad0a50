"""Pure PyTorch BERT: knows nothing of Lightning, data or tokenizers.

Shapes everywhere: B batch, S sequence, H hidden, N heads, D head width, V vocabulary, M masked positions.
"""

from bert_lightning.model.bert import BertForPreTraining, BertForSequenceClassification
from bert_lightning.model.config import PRESETS, BertConfig
from bert_lightning.model.encoder import BertEncoder

__all__ = ["PRESETS", "BertConfig", "BertEncoder", "BertForPreTraining", "BertForSequenceClassification"]
