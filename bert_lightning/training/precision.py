"""Precisions that Lightning lacks: only the weights in bfloat16, and a loss scaled for float16."""

from collections.abc import Callable
from typing import Any

import torch
from lightning import LightningModule
from lightning.fabric.utilities.types import Optimizable
from lightning.pytorch.plugins.precision import MixedPrecision, Precision


class BFloat16Weights(Precision):
    """`bf16-true` for a model that is already in bfloat16.

    Lightning's own makes bfloat16 the default type during a step, which rounds labels and metrics too.
    """

    precision: Any = "bf16-true"


class ScaledFloat16(MixedPrecision):
    """`16-mixed` whose loss scale belongs to the training step.

    Micikevicius et al. 2018, arXiv 1710.03740, section 3.2. The loss is scaled before each backward pass. Lightning's
    own would unscale the gradients within the optimiser's step, after the clipping of their norm. With a fused
    optimiser it would not unscale them at all.

    Args:
        device: the type of the device, such as cuda.
    """

    def __init__(self, device: str) -> None:
        super().__init__("16-mixed", device, torch.amp.GradScaler(device))

    def optimizer_step(  # type: ignore[override]
        self, optimizer: Optimizable, model: LightningModule, closure: Callable[[], object], **kwargs: object
    ) -> object:
        """Take the optimiser's own step; the training step has unscaled the gradients, or dropped them."""
        return Precision.optimizer_step(self, optimizer, model, closure, **kwargs)
