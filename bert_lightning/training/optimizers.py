"""Optimisers by name, over parameter groups that carry their own rate and weight decay."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor


class OptimizerSettings(Protocol):
    """A row of the table: settings that build an optimiser."""

    learning_rate: float
    weight_decay: float

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

    def __post_init__(self) -> None:
        _require_no_negative(self, "learning_rate", "epsilon", "weight_decay")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas is {list(self.betas)}; both must be in [0, 1)")

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """An optimiser over parameter groups that carry their own `weight_decay`, and their `lr` where it differs."""
        if not self.bias_correction:
            return PublishedAdam(groups, self.learning_rate, self.betas, self.epsilon)
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

    def __post_init__(self) -> None:
        _require_no_negative(self, "learning_rate", "weight_decay")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum is {self.momentum}; it must be in [0, 1)")
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov does nothing without momentum")

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """An optimiser over parameter groups that carry their own `weight_decay`, and their `lr` where it differs."""
        # The fused kernel fails where some parameters of a group have momentum and others, let go later, have none.
        return torch.optim.SGD(
            groups, lr=self.learning_rate, momentum=self.momentum, nesterov=self.nesterov, foreach=True
        )


class PublishedAdam(torch.optim.Optimizer):
    """Adam with decoupled weight decay and without bias correction; `optimization.py: AdamWeightDecayOptimizer`.

    m = b1 m + (1 - b1) g, v = b2 v + (1 - b2) g^2, w = w - rate (m / (sqrt(v) + epsilon) + decay w).

    The moments have the type of the weights, float32 in every run.
    """

    def __init__(
        self, groups: list[dict[str, Any]], learning_rate: float, betas: tuple[float, float], epsilon: float
    ) -> None:
        # `bias_correction` tells its checkpoints from those of AdamW.
        defaults = {
            "lr": learning_rate,
            "betas": betas,
            "eps": epsilon,
            "weight_decay": 0.0,
            "bias_correction": False,
        }
        super().__init__(groups, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step over every parameter that has a gradient; gives what `closure` gives."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not parameters:
                continue
            gradients: list[Tensor] = [parameter.grad for parameter in parameters]
            for parameter in parameters:
                if not self.state[parameter]:
                    self.state[parameter] |= {"m": torch.zeros_like(parameter), "v": torch.zeros_like(parameter)}
            first, second = ([self.state[parameter][name] for parameter in parameters] for name in "mv")
            rate, decay, (beta1, beta2) = group["lr"], group["weight_decay"], group["betas"]
            torch._foreach_lerp_(first, gradients, 1 - beta1)
            torch._foreach_mul_(second, beta2)
            torch._foreach_addcmul_(second, gradients, gradients, 1 - beta2)
            divisors = torch._foreach_sqrt(second)
            torch._foreach_add_(divisors, group["eps"])
            torch._foreach_mul_(parameters, 1 - rate * decay)
            torch._foreach_addcdiv_(parameters, first, divisors, -rate)
        return loss


OPTIMIZERS: dict[str, type] = {"adamw": AdamW, "sgd": SGD}


def _require_no_negative(settings: Any, *names: str) -> None:
    for name in names:
        if getattr(settings, name) < 0:
            raise ValueError(f"{name} is {getattr(settings, name)}; it must not be negative")
