"""All methods of continual learning, by name."""

from bert_lightning.methods.continual.ewc import EWC
from bert_lightning.methods.continual.l2_sp import L2SP
from bert_lightning.methods.continual.lwf import LwF
from bert_lightning.methods.continual.method import NoContinual
from bert_lightning.methods.continual.replay import Replay

CONTINUAL_METHODS: dict[str, type] = {"none": NoContinual, "replay": Replay, "ewc": EWC, "l2-sp": L2SP, "lwf": LwF}
"""Value of `continual.name` -> its settings."""
