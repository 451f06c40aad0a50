"""Adversarial and consistency training: losses of perturbed embeddings, or of two passes with different dropout."""

from bert_lightning.methods.adversarial.adversary import Adversary, NoAdversary, Passes
from bert_lightning.methods.adversarial.fast_gradient import FastGradient, FastGradientStep
from bert_lightning.methods.adversarial.free_lb import FreeLB, FreeLBStep
from bert_lightning.methods.adversarial.perturbations import directions, projected
from bert_lightning.methods.adversarial.projected_gradient import ProjectedGradient, ProjectedGradientStep
from bert_lightning.methods.adversarial.r_drop import RDrop, RDropLosses
from bert_lightning.methods.adversarial.smart import Smart, SmartLosses
from bert_lightning.methods.adversarial.table import ADVERSARIES, cost_of

__all__ = [
    "ADVERSARIES",
    "Adversary",
    "FastGradient",
    "FastGradientStep",
    "FreeLB",
    "FreeLBStep",
    "NoAdversary",
    "Passes",
    "ProjectedGradient",
    "ProjectedGradientStep",
    "RDrop",
    "RDropLosses",
    "Smart",
    "SmartLosses",
    "cost_of",
    "directions",
    "projected",
]
