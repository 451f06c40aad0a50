"""Distillation: training on the predictions and the inner states of a teacher, and on the labels."""

from bert_lightning.methods.distillation.losses import DistilledLosses
from bert_lightning.methods.distillation.settings import TERMS, DistillationSettings

__all__ = ["TERMS", "DistillationSettings", "DistilledLosses"]
