"""Adam: its step, shared by what builds on it, and its published form."""

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from bert_lightning.distributed.slices import local

Group = dict[str, Any]
State = dict[str, Any]


class GroupwiseOptimizer(torch.optim.Optimizer):
    """An optimiser whose step is the same function of each group, computed in float32 whatever the parameters are.

    Where processes share the rows of a parameter, a step computes with this process's rows, and keeps its states so.

    Attributes:
        keeps_slices: tells `distributed/sharded.py` that states are plain tensors with this process's slice.
        moved: the parameters of the group whose step is computed, in the order of its weights.
    """

    keeps_slices = True
    moved: Sequence[Tensor] = ()

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
            self.moved = parameters
            rows = [local(parameter) for parameter in parameters]
            weights = [_widened(each) for each in rows]
            gradients = [_widened(local(parameter.grad)) for parameter in parameters if parameter.grad is not None]
            self.step_group(group, [self.state[parameter] for parameter in parameters], weights, gradients)
            narrow = [number for number, weight in enumerate(weights) if weight is not rows[number]]
            if narrow:
                torch._foreach_copy_([rows[n] for n in narrow], [weights[n] for n in narrow])
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


def fused_adam(
    tensors: list[Tensor],
    states: list[State],
    gradients: list[Tensor],
    group: Group,
    *,
    rate: float,
    weight_decay: float,
    bias_correction: bool,
) -> None:
    """Move Adam's moments on by a step and the tensors by it, in place, all in one pass of torch's fused kernel.

    m = b1 m + (1 - b1) g, v = b2 v + (1 - b2) g^2, w = w - rate (m' / (sqrt(v') + epsilon) + decay w); with bias
    correction m' = m / (1 - b1^t) and v' = v / (1 - b2^t) at step t, else m' = m, v' = v, which is what they are at
    step infinity. Kingma and Ba 2015, arXiv 1412.6980, algorithm 1. A parameter counts its own steps, since one that
    is let go later begins later, in a plain number, so that nothing waits for the device to know it.
    """
    for state, gradient in zip(states, gradients, strict=True):
        if "m" not in state:
            state |= {"m": torch.zeros_like(gradient), "v": torch.zeros_like(gradient)}
        if bias_correction:
            state["step"] = state.get("step", 0) + 1
    numbers = [float(state["step"]) if bias_correction else math.inf for state in states]
    on_device = {number: torch.full((), number, device=gradients[0].device) for number in set(numbers)}
    beta1, beta2 = group["betas"]
    torch._fused_adamw_(
        tensors,
        gradients,
        [state["m"] for state in states],
        [state["v"] for state in states],
        [],
        [on_device[number] for number in numbers],
        lr=rate,
        beta1=beta1,
        beta2=beta2,
        weight_decay=weight_decay,
        eps=group["eps"],
        amsgrad=False,
        maximize=False,
    )


class AdamWOfBFloat16(GroupwiseOptimizer):
    """AdamW for weights in bfloat16, with moments in float32.

    torch's has the moments in the type of the weights. In bfloat16, whose steps are a 256th, 0.999 v is v again, so
    that the second moment would only ever grow.
    """

    def __init__(self, groups: list[Group], learning_rate: float, betas: tuple[float, float], epsilon: float) -> None:
        super().__init__(groups, {"lr": learning_rate, "betas": betas, "eps": epsilon, "weight_decay": 0.0})

    def step_group(self, group: Group, states: list[State], weights: list[Tensor], gradients: list[Tensor]) -> None:
        """Move the weights of a group that have a gradient, in place."""
        settings = {"rate": group["lr"], "weight_decay": group["weight_decay"], "bias_correction": True}
        fused_adam(weights, states, gradients, group, **settings)


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
        settings = {"rate": group["lr"], "weight_decay": group["weight_decay"], "bias_correction": False}
        fused_adam(weights, states, gradients, group, **settings)
