"""Small models that are tuned in memory, next to the base with the same weights."""

import copy

import torch

from bert_lightning.model import BertConfig, BertEncoder, BertForSequenceClassification
from bert_lightning.model.tuning import Tuning, tune

CONFIG = BertConfig(
    vocab_size=30,
    num_hidden_layers=2,
    hidden_size=16,
    num_attention_heads=2,
    intermediate_size=24,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
)
IDS = torch.tensor([[2, 10, 11, 12, 3], [2, 13, 3, 0, 0]])
MASK = (IDS != 0).long()
EVERY_TARGET = ["query", "key", "value", "attention_output", "intermediate", "output"]


def make(tuning, seed=0, cls=BertForSequenceClassification):
    """Return a tuned model and its base, with the same weights."""
    torch.manual_seed(seed)
    base = cls(CONFIG)
    # Biases begin as zeros and LayerNorm as the identity, which would hide mistakes.
    for parameter in base.parameters():
        parameter.data.normal_(std=0.3)
    model = copy.deepcopy(base)
    tune(model, tuning)
    return model, base


def disturb(model):
    """Change every trained parameter, as training does."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += torch.randn_like(parameter) * 0.1
    return model


def outputs(model):
    return model(IDS, attention_mask=MASK)


def num_trained(tuning: Tuning, preset: str) -> int:
    """Return how many parameters of an encoder train."""
    with torch.device("meta"):
        encoder = BertEncoder(BertConfig.preset(preset))
        tune(encoder, tuning)
    return sum(parameter.numel() for parameter in encoder.parameters() if parameter.requires_grad)
