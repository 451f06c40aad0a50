"""LAMB: Adam with each tensor's step scaled by the norm of its weights; You et al. 2020, arXiv 1904.00962."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from bert_lightning.distributed.slices import norms
from bert_lightning.optim.adam import Group, GroupwiseOptimizer, State, fused_adam
from bert_lightning.optim.parameter_groups import ParameterGroup


class LayerwiseAdaptiveMoments(GroupwiseOptimizer):
    """LAMB, algorithm 2 with phi(z) = z, for each parameter tensor w; published as `lamb_optimizer.py` of ALBERT.

    u = m' / (sqrt(v') + epsilon) + decay w and w = w - rate ||w|| / ||u|| u, with Adam's m' and v'. The ratio is 1
    if a norm is 0, and in groups with `layer_adaptation` false. Those are the parameters without weight decay, as in
    the published code (`exclude_from_layer_adaptation`).
    """

    leaves_out_non_finite: ClassVar[bool] = True

    def __init__(
        self,
        groups: Sequence[ParameterGroup],
        learning_rate: float,
        betas: tuple[float, float],
        epsilon: float,
        bias_correction: bool,
    ) -> None:
        defaults = {
            "lr": learning_rate,
            "betas": betas,
            "eps": epsilon,
            "weight_decay": 0.0,
            "bias_correction": bias_correction,
            "layer_adaptation": True,
        }
        super().__init__(groups, defaults)

    def step_group(self, group: Group, states: list[State], weights: list[Tensor], gradients: list[Tensor]) -> None:
        updates = [torch.zeros_like(weight) for weight in weights]
        correction = group["bias_correction"]
        fused_adam(
            updates,
            states,
            gradients,
            group,
            rate=-1.0,
            weight_decay=0.0,
            bias_correction=correction,
            found_inf=self.found_inf,
        )
        if group["weight_decay"]:
            torch._foreach_add_(updates, weights, alpha=group["weight_decay"])
        if group["layer_adaptation"]:
            torch._foreach_mul_(updates, self._trust_ratios(weights, updates))
        if self.found_inf is not None:
            torch._foreach_mul_(updates, 1 - self.found_inf)
        torch._foreach_add_(weights, updates, alpha=-group["lr"])

    def _trust_ratios(self, weights: list[Tensor], updates: list[Tensor]) -> list[Tensor]:
        """Return ||w|| / ||u|| of each pair, 1 if either is 0, without waiting for the device."""
        parameters = [*self.current_parameters, *self.current_parameters]
        weight_norms, update_norms = norms([*weights, *updates], parameters).chunk(2)
        both = (weight_norms > 0) & (update_norms > 0)
        return list(torch.where(both, weight_norms / update_norms, 1.0).unbind())
