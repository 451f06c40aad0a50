"""Muon: orthogonalized momentum for the matrices of the blocks, AdamW for all other parameters.

Jordan et al. 2024, https://kellerjordan.github.io/posts/muon; Liu et al. 2025 (Moonlight), arXiv 2502.16982.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from bert_lightning.cores import multiply_bfloat16
from bert_lightning.distributed.slices import slice_for, whole, whole_shape
from bert_lightning.optim.adam import Group, GroupwiseOptimizer, State, fused_adam
from bert_lightning.optim.parameter_groups import ParameterGroup

# a, b, c of the iteration X = a X + (b X X^T + c (X X^T)^2) X; Jordan et al., "Tuning the coefficients".
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
# Root mean square of an update. It is close to AdamW's, so AdamW's rates can be used; Liu et al., section 2.2.
_UPDATE_RMS = 0.2


class MuonWithAdamW(GroupwiseOptimizer):
    """Muon in groups with `num_matrices` above 0, AdamW in the others.

    `num_matrices` is the number of matrices stacked in each parameter of the group. The update of each matrix W with
    gradient G is that of `torch.optim.Muon` with `adjust_lr_fn="match_rms_adamw"`:

        M = momentum M + (1 - momentum) G
        O = the orthogonal matrix nearest to M, or with `nesterov` to momentum M + (1 - momentum) G
        W = W - rate (0.2 sqrt(max(rows, columns)) O + decay W)

    Two things differ. The matrices stacked in a parameter (query, key and value) are orthogonalized separately, which
    Jordan et al. found better. Matrices of one shape go through the iteration together. If parameters are cut into
    slices, each process keeps the momentum of its slices and gathers the whole matrix for the iteration.
    """

    leaves_out_non_finite: ClassVar[bool] = True

    def __init__(
        self,
        groups: Sequence[ParameterGroup],
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
        rate, decay = group["lr"], group["weight_decay"]
        if not group["num_matrices"]:
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
            return
        directions = _muon_directions(group, states, gradients, self.current_parameters, self.found_inf)
        if self.found_inf is None:
            torch._foreach_mul_(weights, 1 - rate * decay)
        else:
            is_finite = 1 - self.found_inf
            torch._foreach_mul_(weights, 1 - rate * decay * is_finite)
            torch._foreach_mul_(directions, is_finite)
        torch._foreach_add_(weights, directions, alpha=-rate)


def _muon_directions(
    group: Group,
    states: list[State],
    gradients: list[Tensor],
    parameters: Sequence[Tensor],
    found_inf: Tensor | None,
) -> list[Tensor]:
    """Update the momentum and return its orthogonalized form; with `found_inf` the momentum stays as it is."""
    for state, gradient in zip(states, gradients, strict=True):
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(gradient)
    averages = [state["momentum"] for state in states]
    if found_inf is not None:
        # The mean of a value and itself is that value.
        pairs = zip(averages, gradients, strict=True)
        gradients = [torch.where(found_inf > 0, average, gradient) for average, gradient in pairs]
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
        directions = orthogonalize(matrices, group["num_iterations"]).to(matrices.dtype) * scale
        for number, direction in zip(numbers, directions.reshape(-1, rows, columns), strict=True):
            updates[number] = slice_for(direction, parameters[number])
    return updates


def orthogonalize(matrices: Tensor, num_iterations: int) -> Tensor:
    """Replace matrices (B, R, C) by approximately U V^T of their singular value decompositions U S V^T.

    This is the Newton-Schulz iteration with the odd polynomial of Jordan et al., for which bfloat16 is precise
    enough. Devices that do not multiply bfloat16 in hardware compute in float32. After five iterations all but the
    smallest singular values are between 0.7 and 1.2, not exactly 1. Jordan et al. found that this does no harm.

    Returns:
        (B, R, C), in bfloat16 or float32.
    """
    a, b, c = _COEFFICIENTS
    wide = matrices.shape[1] <= matrices.shape[2]
    x = (matrices if wide else matrices.mT).to(_product_type(matrices.device))
    # The iteration needs a spectral norm of at most 1. The Frobenius norm is an upper bound of it.
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(num_iterations):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if wide else x.mT


def _product_type(device: torch.device) -> torch.dtype:
    """Return bfloat16 if the device multiplies it in hardware, else float32."""
    return torch.bfloat16 if multiply_bfloat16(device.type) else torch.float32
