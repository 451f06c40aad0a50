"""LAMB: Adam whose step in each tensor is as long as its weights are; You et al. 2020, arXiv 1904.00962."""

import torch
from torch import Tensor

from bert_lightning.distributed.slices import norms
from bert_lightning.optim.adam import Group, GroupwiseOptimizer, State, fused_adam


class LayerwiseAdaptiveMoments(GroupwiseOptimizer):
    """LAMB, algorithm 2 with phi(z) = z, for each parameter tensor w; published as `lamb_optimizer.py` of ALBERT.

    u = m' / (sqrt(v') + epsilon) + decay w and w = w - rate ||w|| / ||u|| u, with Adam's m' and v'. The ratio is 1
    where a norm is 0, and in groups with `layer_adaptation` false: what weight decay spares, as there
    (`exclude_from_layer_adaptation`).
    """

    def __init__(
        self,
        groups: list[Group],
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
        """Move the weights of a group that have a gradient, in place."""
        updates = [torch.zeros_like(weight) for weight in weights]
        settings = {"rate": -1.0, "weight_decay": 0.0, "bias_correction": group["bias_correction"]}
        fused_adam(updates, states, gradients, group, **settings)
        if group["weight_decay"]:
            torch._foreach_add_(updates, weights, alpha=group["weight_decay"])
        if group["layer_adaptation"]:
            torch._foreach_mul_(updates, self._trust_ratios(weights, updates))
        torch._foreach_add_(weights, updates, alpha=-group["lr"])

    def _trust_ratios(self, weights: list[Tensor], updates: list[Tensor]) -> list[Tensor]:
        """||w|| / ||u|| of each pair, without waiting for the device; 1 where either is 0."""
        weight_norms, update_norms = norms([*weights, *updates], [*self.moved, *self.moved]).chunk(2)
        both = (weight_norms > 0) & (update_norms > 0)
        return list(torch.where(both, weight_norms / update_norms, 1.0).unbind())
