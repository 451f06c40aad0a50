"""Optimisers, schedules, parameter groups and freezing."""

from typing import TYPE_CHECKING

from bert_lightning.lazy import exports

if TYPE_CHECKING:
    from bert_lightning.optim.adam import GroupwiseOptimizer
    from bert_lightning.optim.freezing import FreezeSettings
    from bert_lightning.optim.optimizers import OPTIMIZERS, SGD, AdamW, Lamb, Muon, OptimizerSettings
    from bert_lightning.optim.parameter_groups import ParameterGroupSettings
    from bert_lightning.optim.schedules import (
        SCHEDULES,
        Constant,
        Cosine,
        Linear,
        Phase,
        Phases,
        Polynomial,
        Schedule,
        WarmupStableDecay,
    )

__all__ = [
    "OPTIMIZERS",
    "SCHEDULES",
    "SGD",
    "AdamW",
    "Constant",
    "Cosine",
    "FreezeSettings",
    "GroupwiseOptimizer",
    "Lamb",
    "Linear",
    "Muon",
    "OptimizerSettings",
    "ParameterGroupSettings",
    "Phase",
    "Phases",
    "Polynomial",
    "Schedule",
    "WarmupStableDecay",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = exports(__name__, __file__)
