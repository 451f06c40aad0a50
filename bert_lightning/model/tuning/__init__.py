"""Tuning: which parameters of a pre-trained encoder train, and which ones are added to it.

A tuning is applied after the model is filled with pre-trained weights and before layers are frozen. Names of the base
model's parameters stay the same.
"""

from bert_lightning.model.tuning.adapter import Adapter
from bert_lightning.model.tuning.bitfit import BitFit
from bert_lightning.model.tuning.changed_linear import ChangedLinear
from bert_lightning.model.tuning.dora import Dora
from bert_lightning.model.tuning.ia3 import Ia3
from bert_lightning.model.tuning.layer_norm import LayerNormOnly
from bert_lightning.model.tuning.lora import Lora
from bert_lightning.model.tuning.prefix import Prefix
from bert_lightning.model.tuning.prompt import Prompt
from bert_lightning.model.tuning.table import TUNINGS, described, merged, register_tuning, saved_tuning, tune, tune_as
from bert_lightning.model.tuning.top_layers import TopLayers
from bert_lightning.model.tuning.tuning import Full, Tuning

__all__ = [
    "TUNINGS",
    "Adapter",
    "BitFit",
    "ChangedLinear",
    "Dora",
    "Full",
    "Ia3",
    "LayerNormOnly",
    "Lora",
    "Prefix",
    "Prompt",
    "TopLayers",
    "Tuning",
    "described",
    "merged",
    "register_tuning",
    "saved_tuning",
    "tune",
    "tune_as",
]
