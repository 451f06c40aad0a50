"""Stochastic gradient descent with momentum, in one pass of torch's fused kernel."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from bert_lightning.optim.adam import Group, GroupwiseOptimizer, State
from bert_lightning.optim.parameter_groups import ParameterGroup


class MomentumSGD(GroupwiseOptimizer):
    """The update of `torch.optim.SGD` without dampening: g += decay w, b = momentum b + g, w = w - rate b.

    With `nesterov`, w = w - rate (g + momentum b). Each parameter's momentum begins at 0, so a parameter that is
    unfrozen later can join a group whose others have momentum, which torch's optimiser does not allow.
    """

    leaves_out_non_finite: ClassVar[bool] = True

    def __init__(
        self, groups: Sequence[ParameterGroup], learning_rate: float, momentum: float, nesterov: bool
    ) -> None:
        defaults = {"lr": learning_rate, "momentum": momentum, "nesterov": nesterov, "weight_decay": 0.0}
        super().__init__(groups, defaults)

    def step_group(self, group: Group, states: list[State], weights: list[Tensor], gradients: list[Tensor]) -> None:
        momentum = group["momentum"]
        for state, gradient in zip(states, gradients, strict=True):
            if momentum and "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(gradient)
        torch._fused_sgd_(
            weights,
            gradients,
            [state["momentum_buffer"] for state in states] if momentum else [],
            weight_decay=group["weight_decay"],
            momentum=momentum,
            lr=group["lr"],
            dampening=0.0,
            nesterov=group["nesterov"],
            maximize=False,
            is_first_step=False,
            found_inf=self.found_inf,
        )
