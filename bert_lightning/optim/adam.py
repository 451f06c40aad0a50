"""Adam in float32 for parameters of any type, and the base class of our own optimisers."""

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict, cast

import torch
from torch import Tensor

from bert_lightning.distributed.slices import local
from bert_lightning.optim.parameter_groups import ParameterGroup


class Group(ParameterGroup, total=False):
    """A parameter group with all settings of its optimiser, as `step_group` receives it."""

    betas: tuple[float, float]
    eps: float
    bias_correction: bool
    layer_adaptation: bool
    momentum: float
    nesterov: bool
    num_iterations: int


class State(TypedDict, total=False):
    """The state of one parameter; empty before its first step."""

    m: Tensor
    v: Tensor
    momentum: Tensor
    step: int


class GroupwiseOptimizer(torch.optim.Optimizer):
    """Base of optimisers that compute the step of a whole group at once, in float32 or wider.

    If parameters are cut into slices, each process updates its slices and keeps only their state.

    Attributes:
        keeps_slices: True: `distributed/sharded.py` reads from it that the states hold only this process's slices.
        current_parameters: the parameters of the group that is being updated, in the order of `weights`.
    """

    keeps_slices = True
    current_parameters: Sequence[Tensor] = ()

    def __init__(self, groups: Sequence[ParameterGroup], defaults: Mapping[str, object]) -> None:
        super().__init__([dict(group) for group in groups], dict(defaults))

    @abstractmethod
    def step_group(self, group: Group, states: list[State], weights: list[Tensor], gradients: list[Tensor]) -> None:
        """Update the weights of a group in place; weights without a gradient are not among them."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Update every parameter that has a gradient; return what `closure` returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters: list[Tensor] = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not parameters:
                continue
            self.current_parameters = parameters
            slices = [local(parameter) for parameter in parameters]
            weights = [_widen(each) for each in slices]
            gradients = [_widen(local(parameter.grad)) for parameter in parameters if parameter.grad is not None]
            states = [self.state[parameter] for parameter in parameters]
            self.step_group(cast(Group, group), states, weights, gradients)
            narrow = [number for number, weight in enumerate(weights) if weight is not slices[number]]
            if narrow:
                torch._foreach_copy_([slices[n] for n in narrow], [weights[n] for n in narrow])
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state and keep its types, which the base class would cast to those of the parameters."""
        super().load_state_dict(state_dict)
        numbers = [number for group in state_dict["param_groups"] for number in group["params"]]
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        for number, parameter in zip(numbers, parameters, strict=True):
            for name, value in state_dict["state"].get(number, {}).items():
                if isinstance(value, Tensor) and value.dtype != self.state[parameter][name].dtype:
                    self.state[parameter][name] = value.to(parameter.device)


def _widen(tensor: Tensor) -> Tensor:
    """Return the tensor itself if it is float32 or wider, else a float32 copy."""
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
    """Update Adam's moments and the tensors in place, in one pass of torch's fused kernel.

    m = b1 m + (1 - b1) g, v = b2 v + (1 - b2) g^2, w = w - rate (m' / (sqrt(v') + epsilon) + decay w). With bias
    correction, m' = m / (1 - b1^t) and v' = v / (1 - b2^t) at step t. Without it, m' = m and v' = v, which is the
    limit for large t. Kingma and Ba 2015, arXiv 1412.6980, algorithm 1.

    Each parameter counts its own steps, because a parameter that is unfrozen later starts later. The count is a plain
    number, so that nothing waits for the device to read it.
    """
    for state, gradient in zip(states, gradients, strict=True):
        if "m" not in state:
            state["m"], state["v"] = torch.zeros_like(gradient), torch.zeros_like(gradient)
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


class BFloat16AdamW(GroupwiseOptimizer):
    """AdamW for weights in bfloat16, with moments in float32.

    torch keeps the moments in the type of the weights. In bfloat16, which has a relative precision of 1/256, 0.999 v
    rounds to v, so the second moment would never shrink.
    """

    def __init__(
        self, groups: Sequence[ParameterGroup], learning_rate: float, betas: tuple[float, float], epsilon: float
    ) -> None:
        super().__init__(groups, {"lr": learning_rate, "betas": betas, "eps": epsilon, "weight_decay": 0.0})

    def step_group(self, group: Group, states: list[State], weights: list[Tensor], gradients: list[Tensor]) -> None:
        rate, decay = group["lr"], group["weight_decay"]
        fused_adam(weights, states, gradients, group, rate=rate, weight_decay=decay, bias_correction=True)


class PublishedAdam(GroupwiseOptimizer):
    """Adam with decoupled weight decay and without bias correction; `optimization.py: AdamWeightDecayOptimizer`.

    m = b1 m + (1 - b1) g, v = b2 v + (1 - b2) g^2, w = w - rate (m / (sqrt(v) + epsilon) + decay w).
    """

    def __init__(
        self, groups: Sequence[ParameterGroup], learning_rate: float, betas: tuple[float, float], epsilon: float
    ) -> None:
        # The key `bias_correction` distinguishes its checkpoints from those of AdamW.
        defaults = {
            "lr": learning_rate,
            "betas": betas,
            "eps": epsilon,
            "weight_decay": 0.0,
            "bias_correction": False,
        }
        super().__init__(groups, defaults)

    def step_group(self, group: Group, states: list[State], weights: list[Tensor], gradients: list[Tensor]) -> None:
        rate, decay = group["lr"], group["weight_decay"]
        fused_adam(weights, states, gradients, group, rate=rate, weight_decay=decay, bias_correction=False)
