"""Numeric precisions: the type of matrix products, weights in bfloat16, and a scaled loss for float16.

Lightning has versions of the last two, but they round labels and interfere with gradient clipping.
"""

from collections.abc import Callable
from typing import Any

import torch
from lightning import LightningModule
from lightning.fabric.utilities.types import Optimizable
from lightning.pytorch.plugins.precision import MixedPrecision, Precision

_TYPES = {"bf16": torch.bfloat16, "16": torch.float16}


def product_type(precision: str) -> torch.dtype:
    """Return the type in which a precision computes matrix products.

    >>> product_type("bf16-mixed"), product_type("32-true")
    (torch.bfloat16, torch.float32)
    """
    return _TYPES.get(precision.split("-")[0], torch.float32)


class BFloat16Weights(Precision):
    """`bf16-true` for a model that is already in bfloat16.

    Lightning's version makes bfloat16 the default type during a step, which rounds labels and metrics too.
    """

    precision: Any = "bf16-true"


class ScaledFloat16(MixedPrecision):
    """`16-mixed` whose loss scale belongs to the training step.

    Micikevicius et al. 2018, arXiv 1710.03740, section 3.2. The loss is scaled before each backward pass. Lightning's
    version would unscale the gradients within the optimiser's step, after the clipping of their norm. With a fused
    optimiser it would not unscale them at all.

    Args:
        device: the type of the device, such as cuda.
    """

    def __init__(self, device: str) -> None:
        super().__init__("16-mixed", device, torch.amp.GradScaler(device))

    def optimizer_step(  # type: ignore[override]
        self, optimizer: Optimizable, model: LightningModule, closure: Callable[[], object], **kwargs: object
    ) -> object:
        """Call the optimiser without the scaler: the training step has already unscaled or dropped the gradients."""
        return Precision.optimizer_step(self, optimizer, model, closure, **kwargs)
