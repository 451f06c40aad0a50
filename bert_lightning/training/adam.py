"""Adam: its direction, shared by what builds on it, and its published form."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

Group = dict[str, Any]
State = dict[str, Any]


class GroupwiseOptimizer(torch.optim.Optimizer):
    """An optimiser whose step is the same function of each group, computed in float32 whatever the parameters are."""

    @abstractmethod
    def step_group(self, group: Group, states: list[State], weights: list[Tensor], gradients: list[Tensor]) -> None:
        """Move the weights of a group that have a gradient, in place; a state is empty at first."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step over every parameter that has a gradient; gives what `closure` gives."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters: list[Tensor] = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not parameters:
                continue
            weights = [_widened(parameter) for parameter in parameters]
            gradients = [_widened(parameter.grad) for parameter in parameters if parameter.grad is not None]
            self.step_group(group, [self.state[parameter] for parameter in parameters], weights, gradients)
            narrow = [number for number, weight in enumerate(weights) if weight is not parameters[number]]
            if narrow:
                torch._foreach_copy_([parameters[n] for n in narrow], [weights[n] for n in narrow])
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As everywhere, but state keeps its type, where the base class casts it to the parameter's."""
        super().load_state_dict(state_dict)
        numbers = [number for group in state_dict["param_groups"] for number in group["params"]]
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        for number, parameter in zip(numbers, parameters, strict=True):
            for name, value in state_dict["state"].get(number, {}).items():
                if isinstance(value, Tensor) and value.dtype != self.state[parameter][name].dtype:
                    self.state[parameter][name] = value.to(parameter.device)


def _widened(tensor: Tensor) -> Tensor:
    """The tensor itself where it is float32 or wider, else a copy that is."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


class AdamDirections(NamedTuple):
    """What Adam would subtract at rate 1, without weight decay: scale * numerator / divisor of each tensor."""

    numerators: list[Tensor]
    divisors: list[Tensor]
    scales: list[float]

    def add_to(self, tensors: list[Tensor], factor: float) -> None:
        """Add `factor` times the directions, in place."""
        torch._foreach_addcdiv_(tensors, self.numerators, self.divisors, [factor * scale for scale in self.scales])


def adam_directions(
    states: list[State], gradients: list[Tensor], betas: tuple[float, float], epsilon: float, bias_correction: bool
) -> AdamDirections:
    """Move the moments on by a step, and give the directions.

    m = b1 m + (1 - b1) g, v = b2 v + (1 - b2) g^2, direction = m' / (sqrt(v') + epsilon); with bias correction
    m' = m / (1 - b1^t) and v' = v / (1 - b2^t) at step t, else m' = m, v' = v. Kingma and Ba 2015, arXiv 1412.6980,
    algorithm 1. A parameter counts its own steps, since one that is let go later begins later, in a plain number, so
    that nothing waits for the device to know it.
    """
    for state, gradient in zip(states, gradients, strict=True):
        if "m" not in state:
            state |= {"m": torch.zeros_like(gradient), "v": torch.zeros_like(gradient)}
    first, second = ([state[name] for state in states] for name in "mv")
    beta1, beta2 = betas
    torch._foreach_lerp_(first, gradients, 1 - beta1)
    torch._foreach_mul_(second, beta2)
    torch._foreach_addcmul_(second, gradients, gradients, 1 - beta2)
    divisors = list(torch._foreach_sqrt(second))
    scales = [1.0 for _ in states]
    if bias_correction:
        steps = [state.get("step", 0) + 1 for state in states]
        for state, step in zip(states, steps, strict=True):
            state["step"] = step
        torch._foreach_div_(divisors, [(1 - beta2**step) ** 0.5 for step in steps])
        scales = [1 / (1 - beta1**step) for step in steps]
    torch._foreach_add_(divisors, epsilon)
    return AdamDirections(first, divisors, scales)


class PublishedAdam(GroupwiseOptimizer):
    """Adam with decoupled weight decay and without bias correction; `optimization.py: AdamWeightDecayOptimizer`.

    m = b1 m + (1 - b1) g, v = b2 v + (1 - b2) g^2, w = w - rate (m / (sqrt(v) + epsilon) + decay w).
    """

    def __init__(self, groups: list[Group], learning_rate: float, betas: tuple[float, float], epsilon: float) -> None:
        # `bias_correction` tells its checkpoints from those of AdamW.
        defaults = {
            "lr": learning_rate,
            "betas": betas,
            "eps": epsilon,
            "weight_decay": 0.0,
            "bias_correction": False,
        }
        super().__init__(groups, defaults)

    def step_group(self, group: Group, states: list[State], weights: list[Tensor], gradients: list[Tensor]) -> None:
        """Move the weights of a group that have a gradient, in place."""
        directions = adam_directions(states, gradients, group["betas"], group["eps"], bias_correction=False)
        torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        directions.add_to(weights, -group["lr"])
