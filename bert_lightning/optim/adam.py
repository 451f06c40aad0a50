"""Adam in float32 for parameters of any type, and the base class of our own optimisers.

On an accelerator, no optimiser here waits to learn whether a step is finite. The device leaves out a step that is
not finite.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypedDict, cast

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
    momentum_buffer: Tensor
    step: Tensor
    """() the number of updates, in float32; a plain number in checkpoints of earlier versions"""
    master: Tensor
    """the weight in float32, if the parameter is narrower"""


class GroupwiseOptimizer(torch.optim.Optimizer):
    """Base of optimisers that compute the step of a whole group at once, in float32 or wider.

    If parameters are cut into slices, each process updates its slices and keeps only their state. For parameters in
    16 bits, the state holds the weights in float32 (`_Masters`).

    Attributes:
        keeps_slices: True: `distributed/sharded.py` reads from it that the states hold only this process's slices.
        leaves_out_non_finite: whether `step_group` obeys `found_inf`. If not, training waits in each step until it
            knows whether loss and gradients are finite (`training/finite.py`).
        found_inf: () 1 on the device if this step must change no weight and no state, otherwise 0; None on a CPU,
            where such a step is not taken.
        current_parameters: the parameters of the group that is being updated, in the order of `weights`.
    """

    keeps_slices = True
    leaves_out_non_finite: ClassVar[bool] = False
    found_inf: Tensor | None = None
    current_parameters: Sequence[Tensor] = ()

    def __init__(self, groups: Sequence[ParameterGroup], defaults: Mapping[str, object]) -> None:
        super().__init__([dict(group) for group in groups], dict(defaults))
        self._masters = _Masters()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._masters = _Masters()

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
            gradients = [_widen(local(parameter.grad)) for parameter in parameters if parameter.grad is not None]
            states = [self.state[parameter] for parameter in parameters]
            weights = [self._masters.weight(*each) for each in zip(slices, states, strict=True)]
            self.step_group(cast(Group, group), states, weights, gradients)
            self._masters.copy_back(slices, weights)
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state and keep its types, which the base class would cast to those of the parameters."""
        super().load_state_dict(state_dict)
        numbers = [number for group in state_dict["param_groups"] for number in group["params"]]
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        for number, parameter in zip(numbers, parameters, strict=True):
            for name, value in state_dict["state"].get(number, {}).items():
                # The base class leaves the count of steps where it was loaded.
                if isinstance(value, Tensor) and (name == "step" or value.dtype != self.state[parameter][name].dtype):
                    self.state[parameter][name] = value.to(parameter.device, copy=True)


class _Masters:
    """Float32 copies of parameters in 16 bits. Optimisers update the copies, and the parameters follow.

    Updates are often smaller than half the last place of a bfloat16 weight. Added to it, they would all be lost.
    Micikevicius et al. 2018, arXiv 1710.03740, section 3.1.
    """

    def __init__(self) -> None:
        # Address of a parameter's slice -> its version after our last update. In-place operations of others raise the
        # version.
        self._versions: dict[int, int] = {}

    def weight(self, values: Tensor, state: State) -> Tensor:
        """Return the tensor to update for a slice: the slice itself, or its float32 weights in `state`.

        If other code, such as a callback, has changed the weights since the last update, the changed ones are used.
        """
        if _widen(values[:0]).dtype == values.dtype:
            return values
        if "master" not in state:
            state["master"] = _widen(values)
        elif self._versions.get(values.data_ptr()) != values._version:
            master = state["master"]
            torch.where(master.to(values.dtype) == values, master, _widen(values), out=master)
        return state["master"]

    def copy_back(self, slices: Sequence[Tensor], weights: Sequence[Tensor]) -> None:
        """Round updated float32 weights to the type of their slices."""
        narrow = [number for number, weight in enumerate(weights) if weight is not slices[number]]
        if narrow:
            torch._foreach_copy_([slices[n] for n in narrow], [weights[n] for n in narrow])
        for number in narrow:
            self._versions[slices[number].data_ptr()] = slices[number]._version


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
    found_inf: Tensor | None,
) -> None:
    """Update Adam's moments and the tensors in place, in one pass of torch's fused kernel.

    m = b1 m + (1 - b1) g, v = b2 v + (1 - b2) g^2, w = w - rate (m' / (sqrt(v') + epsilon) + decay w). With bias
    correction, m' = m / (1 - b1^t) and v' = v / (1 - b2^t) at step t. Without it, m' = m and v' = v, which is the
    limit for large t. Kingma and Ba 2015, arXiv 1412.6980, algorithm 1.

    Each parameter counts its own steps, because a parameter that is unfrozen later starts later. The counts are on
    the device, so that a step left out by `found_inf` does not count and nothing waits to learn of it.
    """
    device = gradients[0].device
    for state, gradient in zip(states, gradients, strict=True):
        if "m" not in state:
            state["m"], state["v"] = torch.zeros_like(gradient), torch.zeros_like(gradient)
        if bias_correction and not isinstance(state.get("step"), Tensor):
            state["step"] = torch.full((), float(state.get("step", 0)), device=device)
    if bias_correction:
        steps = [state["step"] for state in states]
        torch._foreach_add_(steps, 1)
    else:
        steps = [torch.full((), math.inf, device=device)] * len(states)
    beta1, beta2 = group["betas"]
    torch._fused_adamw_(
        tensors,
        gradients,
        [state["m"] for state in states],
        [state["v"] for state in states],
        [],
        steps,
        lr=rate,
        beta1=beta1,
        beta2=beta2,
        weight_decay=weight_decay,
        eps=group["eps"],
        amsgrad=False,
        maximize=False,
        found_inf=found_inf,
    )
    if bias_correction and found_inf is not None:
        torch._foreach_sub_(steps, [found_inf] * len(steps))


class FusedAdamW(torch.optim.AdamW):
    """torch's fused AdamW over this process's slices, whose kernel leaves out a step that is not finite.

    torch's own class gives distributed tensors to the kernel, which then cannot take `found_inf`.

    Attributes:
        leaves_out_non_finite: True: a step with `found_inf` changes no weight and no state.
    """

    leaves_out_non_finite: ClassVar[bool] = True

    def _init_group(self, group: Any, parameters: list[Tensor], gradients: list[Tensor], *others: Any) -> bool:
        is_complex = super()._init_group(group, parameters, gradients, *others)
        for tensors in (parameters, gradients, *others):
            tensors[:] = [local(tensor) for tensor in tensors]
        return bool(is_complex)


class BFloat16AdamW(GroupwiseOptimizer):
    """AdamW for weights in bfloat16, with moments and master weights in float32.

    torch keeps the moments in the type of the weights. In bfloat16, which has a relative precision of 1/256, 0.999 v
    rounds to v, so the second moment would never shrink.
    """

    leaves_out_non_finite: ClassVar[bool] = True

    def __init__(
        self, groups: Sequence[ParameterGroup], learning_rate: float, betas: tuple[float, float], epsilon: float
    ) -> None:
        super().__init__(groups, {"lr": learning_rate, "betas": betas, "eps": epsilon, "weight_decay": 0.0})

    def step_group(self, group: Group, states: list[State], weights: list[Tensor], gradients: list[Tensor]) -> None:
        rate, decay = group["lr"], group["weight_decay"]
        fused_adam(
            weights,
            states,
            gradients,
            group,
            rate=rate,
            weight_decay=decay,
            bias_correction=True,
            found_inf=self.found_inf,
        )


class PublishedAdam(GroupwiseOptimizer):
    """Adam with decoupled weight decay and without bias correction; `optimization.py: AdamWeightDecayOptimizer`.

    m = b1 m + (1 - b1) g, v = b2 v + (1 - b2) g^2, w = w - rate (m / (sqrt(v) + epsilon) + decay w).
    """

    leaves_out_non_finite: ClassVar[bool] = True

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
        fused_adam(
            weights,
            states,
            gradients,
            group,
            rate=rate,
            weight_decay=decay,
            bias_correction=False,
            found_inf=self.found_inf,
        )
