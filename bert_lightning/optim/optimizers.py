"""Settings of the optimisers, by name."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch

from bert_lightning.checks import require_at_least, require_below_one
from bert_lightning.optim.adam import BFloat16AdamW, FusedAdamW, Group, PublishedAdam
from bert_lightning.optim.lamb import LayerwiseAdaptiveMoments
from bert_lightning.optim.momentum import MomentumSGD
from bert_lightning.optim.muon import MuonWithAdamW
from bert_lightning.optim.parameter_groups import ParameterGroup


class OptimizerSettings(Protocol):
    """An entry of `OPTIMIZERS`: settings that build an optimiser."""

    matrices_apart: ClassVar[bool]
    """True if the matrices of the blocks need separate groups, with `num_matrices`."""

    @property
    def learning_rate(self) -> float:
        """The peak rate, which the schedule scales."""
        ...

    @property
    def weight_decay(self) -> float:
        """The weight decay of all parameters that `parameter_groups.no_decay` does not match."""
        ...

    def build(self, groups: Sequence[ParameterGroup]) -> torch.optim.Optimizer:
        """Build the optimiser over parameter groups, each with its own `lr` and `weight_decay`."""
        ...


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay, fused into one kernel; Loshchilov and Hutter 2019, arXiv 1711.05101.

    Attributes:
        learning_rate: the peak rate, which the schedule scales; 1e-4 for pre-training in the BERT paper. Most tunings
            have their own default.
        betas: decay rates of the running moments.
        epsilon: added to the root of the second moment; 1e-6 in `optimization.py`.
        weight_decay: decoupled weight decay; 0.01 in `optimization.py`. Biases and LayerNorm are exempt.
        bias_correction: divide the moments by 1 - beta^t. The published code does not, which makes fine-tuning on
            little data unstable (Zhang et al. 2021, arXiv 2006.05987, section 4; Mosbach et al. 2021, arXiv
            2006.04884).

    >>> weights = torch.nn.Parameter(torch.ones(2))
    >>> AdamW(learning_rate=1e-3).build([{"params": [weights], "lr": 1e-3, "weight_decay": 0.01}]).defaults["lr"]
    0.001
    """

    learning_rate: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-6
    weight_decay: float = 0.01
    bias_correction: bool = True
    matrices_apart: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require_at_least(self, 0, "learning_rate", "epsilon", "weight_decay")
        _check_betas(self.betas)

    def build(self, groups: Sequence[ParameterGroup]) -> torch.optim.Optimizer:
        if not self.bias_correction:
            return PublishedAdam(groups, self.learning_rate, self.betas, self.epsilon)
        if any(parameter.dtype == torch.bfloat16 for group in groups for parameter in group["params"]):
            return BFloat16AdamW(groups, self.learning_rate, self.betas, self.epsilon)
        plain = [dict(group) for group in groups]
        return FusedAdamW(plain, lr=self.learning_rate, betas=self.betas, eps=self.epsilon, fused=True)


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent. Weight decay is added to the gradient, so it enters the momentum.

    Attributes:
        learning_rate: the peak rate, which the schedule scales.
        momentum: fraction of the running sum of gradients that each step keeps; 0 for no momentum.
        nesterov: look ahead along the momentum; Sutskever et al. 2013.
        weight_decay: weight decay that is added to the gradient; biases and LayerNorm are exempt.
    """

    learning_rate: float = 1e-2
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0
    matrices_apart: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require_at_least(self, 0, "learning_rate", "weight_decay")
        require_below_one(self, "momentum")
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov does nothing without momentum: set momentum above 0")

    def build(self, groups: Sequence[ParameterGroup]) -> torch.optim.Optimizer:
        return MomentumSGD(groups, self.learning_rate, self.momentum, self.nesterov)


@dataclass(frozen=True)
class Lamb:
    """Adam with each tensor's step scaled to its norm, for large batches; You et al. 2020, arXiv 1904.00962.

    Parameters without weight decay (`parameter_groups.no_decay`) are not scaled either, as in the authors' code.

    Attributes:
        learning_rate: the peak rate, which the schedule scales: the length of a tensor's step relative to the norm of
            the tensor. 6e-3 for batches of 65,536 in NVIDIA's recipe (`experiments/large_batch/base.yaml`).
        betas: decay rates of the running moments.
        epsilon: added to the root of the second moment.
        weight_decay: decoupled weight decay, part of the update that is scaled; 0.01 in the paper.
        bias_correction: divide the moments by 1 - beta^t, as in the paper's algorithm 2; the authors' code does not.
    """

    learning_rate: float = 6e-3
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-6
    weight_decay: float = 0.01
    bias_correction: bool = True
    matrices_apart: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require_at_least(self, 0, "learning_rate", "epsilon", "weight_decay")
        _check_betas(self.betas)

    def build(self, groups: Sequence[ParameterGroup]) -> torch.optim.Optimizer:
        adapted: list[Group] = [{**group, "layer_adaptation": group.get("decayed", True)} for group in groups]
        return LayerwiseAdaptiveMoments(adapted, self.learning_rate, self.betas, self.epsilon, self.bias_correction)


@dataclass(frozen=True)
class Muon:
    """Orthogonalized momentum for the matrices of the blocks; AdamW for embeddings, biases, LayerNorm and the head.

    Updates have about the same root mean square as AdamW's. So both use one rate, and a good rate for AdamW is a good
    first choice; Liu et al. 2025, arXiv 2502.16982, section 2.2.

    Attributes:
        learning_rate: the peak rate of both, which the schedule scales.
        momentum: fraction of the running mean of gradients that each step keeps; 0.95 in Jordan et al. 2024.
        nesterov: look ahead along the momentum.
        num_iterations: Newton-Schulz iterations towards the orthogonal matrix.
        betas: AdamW's decay rates.
        epsilon: AdamW's epsilon.
        weight_decay: the weight decay of both, decoupled; biases and LayerNorm are exempt.
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
        require_at_least(self, 0, "learning_rate", "epsilon", "weight_decay")
        _check_betas(self.betas)
        require_below_one(self, "momentum")
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov does nothing without momentum: set momentum above 0")
        require_at_least(self, 1, "num_iterations")

    def build(self, groups: Sequence[ParameterGroup]) -> torch.optim.Optimizer:
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


def _check_betas(betas: tuple[float, float]) -> None:
    if not all(0 <= beta < 1 for beta in betas):
        raise ValueError(f"betas is {list(betas)}; both must be in [0, 1)")
