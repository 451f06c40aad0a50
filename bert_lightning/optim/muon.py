"""Muon: momentum made orthogonal, for the matrices of the blocks; AdamW for all else.

Jordan et al. 2024, https://kellerjordan.github.io/posts/muon; Liu et al. 2025 (Moonlight), arXiv 2502.16982.
"""

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from bert_lightning.distributed.slices import slice_for, whole, whole_shape
from bert_lightning.optim.adam import Group, GroupwiseOptimizer, State, fused_adam

# a, b, c of the iteration X = a X + (b X X^T + c (X X^T)^2) X; Jordan et al., "Tuning the coefficients".
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
# Root mean square of an update, near that of AdamW's, so that its rates carry over; Liu et al., section 2.2.
_UPDATE_RMS = 0.2


class MuonWithAdamW(GroupwiseOptimizer):
    """Muon in groups with `num_matrices`, so many stacked in each of their parameters; AdamW in groups without.

    M = momentum M + (1 - momentum) G, and O the orthogonal matrix nearest to M, or with `nesterov` to
    momentum M + (1 - momentum) G anew; W = W - rate (0.2 sqrt(max(rows, columns)) O + decay W), as in
    `torch.optim.Muon` with `adjust_lr_fn="match_rms_adamw"`. Unlike there, the matrices stacked in a parameter
    (query, key and value) are made orthogonal each for itself, which Jordan et al. found better, and those of one
    shape go through the iteration in one batch. Where processes share the rows of a matrix, the momentum stays so,
    and each process puts the matrix together for the iteration.
    """

    def __init__(
        self,
        groups: list[Group],
        learning_rate: float,
        momentum: float,
        nesterov: bool,
        num_iterations: int,
        betas: tuple[float, float],
        epsilon: float,
    ) -> None:
        defaults = {
            "lr": learning_rate,
            "momentum": momentum,
            "nesterov": nesterov,
            "num_iterations": num_iterations,
            "betas": betas,
            "eps": epsilon,
            "weight_decay": 0.0,
            "num_matrices": 0,
        }
        super().__init__(groups, defaults)

    def step_group(self, group: Group, states: list[State], weights: list[Tensor], gradients: list[Tensor]) -> None:
        """Move the weights of a group that have a gradient, in place."""
        if group["num_matrices"]:
            torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(weights, _muon_directions(group, states, gradients, self.moved), alpha=-group["lr"])
        else:
            settings = {"rate": group["lr"], "weight_decay": group["weight_decay"], "bias_correction": True}
            fused_adam(weights, states, gradients, group, **settings)


def _muon_directions(
    group: Group, states: list[State], gradients: list[Tensor], parameters: Sequence[Tensor]
) -> list[Tensor]:
    for state, gradient in zip(states, gradients, strict=True):
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(gradient)
    averages = [state["momentum"] for state in states]
    torch._foreach_lerp_(averages, gradients, 1 - group["momentum"])
    ahead = torch._foreach_lerp(gradients, averages, group["momentum"]) if group["nesterov"] else averages
    by_shape = defaultdict(list)
    for number, parameter in enumerate(parameters):
        by_shape[whole_shape(parameter)].append(number)
    updates = list(gradients)
    for (rows, columns), numbers in by_shape.items():
        stacked = torch.stack([whole(ahead[number], parameters[number]) for number in numbers])
        matrices = stacked.view(-1, rows // group["num_matrices"], columns)
        scale = _UPDATE_RMS * max(matrices.shape[1:]) ** 0.5
        directions = orthogonalized(matrices, group["num_iterations"]).to(matrices.dtype) * scale
        for number, direction in zip(numbers, directions.reshape(-1, rows, columns), strict=True):
            updates[number] = slice_for(direction, parameters[number])
    return updates


def orthogonalized(matrices: Tensor, num_iterations: int) -> Tensor:
    """(B, R, C) -> (B, R, C) about U V^T of each one's singular value decomposition U S V^T, in bfloat16.

    Newton-Schulz iteration on the odd polynomial of Jordan et al., which bfloat16 is enough for. After five, all but
    the smallest singular values lie between 0.7 and 1.2 rather than at 1, which they found to do no harm.
    """
    a, b, c = _COEFFICIENTS
    wide = matrices.shape[1] <= matrices.shape[2]
    x = (matrices if wide else matrices.mT).bfloat16()
    # The iteration needs a spectral norm of at most 1, which Frobenius' bounds.
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(num_iterations):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if wide else x.mT
