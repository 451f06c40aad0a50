"""Continual learning: what keeps earlier tasks while a model learns the next one of a sequence."""

from bert_lightning.methods.continual.method import ContinualMethod, End, NoContinual, Start
from bert_lightning.methods.continual.sequence import SequenceSettings
from bert_lightning.methods.continual.table import CONTINUAL_METHODS

__all__ = ["CONTINUAL_METHODS", "ContinualMethod", "End", "NoContinual", "SequenceSettings", "Start"]
