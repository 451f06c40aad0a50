"""Optimisers by name, over parameter groups that carry their own rate and weight decay."""

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch

from bert_lightning.checks import RefusedValue
from bert_lightning.optim.adam import AdamWOfBFloat16, PublishedAdam
from bert_lightning.optim.lamb import LayerwiseAdaptiveMoments
from bert_lightning.optim.muon import MuonWithAdamW


class OptimizerSettings(Protocol):
    """A row of the table: settings that build an optimiser."""

    matrices_apart: ClassVar[bool]
    """Whether it wants the matrices of the blocks in groups of their own, with `num_matrices`."""

    @property
    def learning_rate(self) -> float:
        """The peak that the schedule scales."""
        ...

    @property
    def weight_decay(self) -> float:
        """Of what is not spared."""
        ...

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """An optimiser over parameter groups that carry their own `weight_decay`, and their `lr` where it differs."""
        ...


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay, fused into one kernel; Loshchilov and Hutter 2019, arXiv 1711.05101.

    Attributes:
        learning_rate: the peak that the schedule scales; 1e-4 for pre-training in the BERT paper.
        betas: decay rates of the running moments.
        epsilon: added to the root of the second moment; 1e-6 in `optimization.py`.
        weight_decay: 0.01 in `optimization.py`; not on biases and LayerNorm.
        bias_correction: divide the moments by 1 - beta^t; false as published, which makes fine-tuning on little data
            unstable (Zhang et al. 2021, arXiv 2006.05987, section 4; Mosbach et al. 2021, arXiv 2006.04884).
    """

    learning_rate: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-6
    weight_decay: float = 0.01
    bias_correction: bool = True
    matrices_apart: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _require_no_negative(self, "learning_rate", "epsilon", "weight_decay")
        _require_shares(self.betas)

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """An optimiser over parameter groups that carry their own `weight_decay`, and their `lr` where it differs."""
        if not self.bias_correction:
            return PublishedAdam(groups, self.learning_rate, self.betas, self.epsilon)
        if any(parameter.dtype == torch.bfloat16 for group in groups for parameter in group["params"]):
            return AdamWOfBFloat16(groups, self.learning_rate, self.betas, self.epsilon)
        return torch.optim.AdamW(groups, lr=self.learning_rate, betas=self.betas, eps=self.epsilon, fused=True)


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent; weight decay is added to the gradient, and so enters the momentum.

    Attributes:
        learning_rate: the peak that the schedule scales.
        momentum: share of the running sum of gradients that is kept in a step; 0 for none.
        nesterov: look ahead along the momentum; Sutskever et al. 2013.
        weight_decay: not on biases and LayerNorm.
    """

    learning_rate: float = 1e-2
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0
    matrices_apart: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _require_no_negative(self, "learning_rate", "weight_decay")
        if not 0 <= self.momentum < 1:
            raise RefusedValue("momentum", self.momentum, "be in [0, 1)")
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov does nothing without momentum")

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """An optimiser over parameter groups that carry their own `weight_decay`, and their `lr` where it differs."""
        # The fused kernel fails where some parameters of a group have momentum and others, let go later, have none.
        return torch.optim.SGD(
            groups, lr=self.learning_rate, momentum=self.momentum, nesterov=self.nesterov, foreach=True
        )


@dataclass(frozen=True)
class Lamb:
    """Adam with the step in each tensor scaled to its norm, for large batches; You et al. 2020, arXiv 1904.00962.

    What weight decay spares (`parameter_groups.no_decay`) is not scaled either, as in the authors' code.

    Attributes:
        learning_rate: the peak that the schedule scales: the share of its norm by which a tensor moves in a step.
            6e-3 for batches of 65,536 in NVIDIA's recipe (`experiments/large_batch/base.yaml`).
        betas: decay rates of the running moments.
        epsilon: added to the root of the second moment.
        weight_decay: 0.01 in the paper; within the ratio.
        bias_correction: divide the moments by 1 - beta^t; in the paper's algorithm 2, not in the authors' code.
    """

    learning_rate: float = 6e-3
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-6
    weight_decay: float = 0.01
    bias_correction: bool = True
    matrices_apart: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _require_no_negative(self, "learning_rate", "epsilon", "weight_decay")
        _require_shares(self.betas)

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """An optimiser over parameter groups that carry their own `weight_decay`, and their `lr` where it differs."""
        adapted = [{**group, "layer_adaptation": group.get("decayed", True)} for group in groups]
        return LayerwiseAdaptiveMoments(adapted, self.learning_rate, self.betas, self.epsilon, self.bias_correction)


@dataclass(frozen=True)
class Muon:
    """Orthogonal momentum for the matrices of the blocks, AdamW for embeddings, biases, LayerNorm and what is on top.

    Its updates have the root mean square of AdamW's, so both share a rate and AdamW's is a place to start; Liu et al.
    2025, arXiv 2502.16982, section 2.2.

    Attributes:
        learning_rate: the peak that the schedule scales, of both.
        momentum: share of the running mean of gradients that is kept in a step; 0.95 in Jordan et al. 2024.
        nesterov: look ahead along the momentum.
        num_iterations: of Newton and Schulz towards the orthogonal matrix.
        betas: of AdamW.
        epsilon: of AdamW.
        weight_decay: of both, decoupled; not on biases and LayerNorm.
    """

    learning_rate: float = 1e-4
    momentum: float = 0.95
    nesterov: bool = True
    num_iterations: int = 5
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-6
    weight_decay: float = 0.01
    matrices_apart: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _require_no_negative(self, "learning_rate", "epsilon", "weight_decay")
        _require_shares(self.betas)
        if not 0 <= self.momentum < 1:
            raise RefusedValue("momentum", self.momentum, "be in [0, 1)")
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov does nothing without momentum")
        if self.num_iterations < 1:
            raise RefusedValue("num_iterations", self.num_iterations, "be at least 1")

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """An optimiser over parameter groups that carry their own `weight_decay`, and their `lr` where it differs."""
        return MuonWithAdamW(
            groups,
            self.learning_rate,
            self.momentum,
            self.nesterov,
            self.num_iterations,
            self.betas,
            self.epsilon,
        )


OPTIMIZERS: dict[str, type] = {"adamw": AdamW, "sgd": SGD, "lamb": Lamb, "muon": Muon}


def _require_no_negative(settings: Any, *names: str) -> None:
    for name in names:
        if getattr(settings, name) < 0:
            raise RefusedValue(name, getattr(settings, name), "not be negative")


def _require_shares(betas: tuple[float, float]) -> None:
    if not all(0 <= beta < 1 for beta in betas):
        raise ValueError(f"betas is {list(betas)}; both must be in [0, 1)")
