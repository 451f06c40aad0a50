"""Tuning: which parameters of a pre-trained encoder train, and which ones are added to it.

A tuning is applied after the model is filled with pre-trained weights and before layers are frozen. Names of the base
model's parameters stay the same.
"""

from bert_lightning.model.tuning.bitfit import BitFit
from bert_lightning.model.tuning.changed_linear import ChangedLinear
from bert_lightning.model.tuning.lora import Lora
from bert_lightning.model.tuning.table import TUNINGS, described, merged, register_tuning, saved_tuning, tune, tune_as
from bert_lightning.model.tuning.tuning import Full, Tuning

__all__ = [
    "TUNINGS",
    "BitFit",
    "ChangedLinear",
    "Full",
    "Lora",
    "Tuning",
    "described",
    "merged",
    "register_tuning",
    "saved_tuning",
    "tune",
    "tune_as",
]
