"""Optimisers by name, over the published parameter groups."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn


class OptimizerSettings(Protocol):
    """A row of the table: settings that build an optimiser."""

    learning_rate: float
    weight_decay: float

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """An optimiser over parameter groups that carry their own `weight_decay`."""
        ...


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay, fused into one kernel; Loshchilov and Hutter 2019, arXiv 1711.05101.

    Attributes:
        learning_rate: the peak that the schedule scales; 1e-4 for pre-training in the BERT paper.
        betas: decay rates of the running moments.
        epsilon: added to the root of the second moment; 1e-6 in `optimization.py`.
        weight_decay: 0.01 in `optimization.py`; not on biases and LayerNorm.
    """

    learning_rate: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-6
    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        for name in ("learning_rate", "epsilon", "weight_decay"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must not be negative")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas is {list(self.betas)}; both must be in [0, 1)")

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """An optimiser over parameter groups that carry their own `weight_decay`."""
        return torch.optim.AdamW(groups, lr=self.learning_rate, betas=self.betas, eps=self.epsilon, fused=True)


OPTIMIZERS: dict[str, type] = {"adamw": AdamW}


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: decayed, and not decayed (biases and LayerNorm); each trainable parameter is in exactly one.

    `optimization.py: AdamWeightDecayOptimizer._do_use_weight_decay` with `exclude_from_weight_decay=["LayerNorm",
    "layer_norm", "bias"]`: embeddings are decayed.
    """
    normalization = {
        id(parameter)
        for part in module.modules()
        if isinstance(part, nn.LayerNorm)
        for parameter in part.parameters()
    }
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in _trainable(module):
        is_plain = id(parameter) in normalization or name.rsplit(".", 1)[-1] == "bias"
        (plain if is_plain else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]


def _trainable(module: nn.Module) -> Iterable[tuple[str, nn.Parameter]]:
    return ((name, p) for name, p in module.named_parameters() if p.requires_grad)
