"""What Lightning's precisions lack: weights in bfloat16 and nothing else, and a loss scaled for float16."""

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch.plugins.precision import MixedPrecision, Precision


class BFloat16Weights(Precision):
    """`bf16-true` for a model that is in bfloat16 already.

    Lightning's own makes bfloat16 the default type while a step is computed and rounds labels and metrics to it.
    """

    precision: Any = "bf16-true"


class ScaledFloat16(MixedPrecision):
    """`16-mixed` whose scale the training step looks after; Micikevicius et al. 2018, arXiv 1710.03740, section 3.2.

    The loss is scaled before each backward pass. Lightning's own would take the scale out of the gradients within the
    optimiser's step, behind the clipping of their norm, or not at all with a fused optimiser.

    Args:
        device: its type.
    """

    def __init__(self, device: str) -> None:
        super().__init__("16-mixed", device, torch.amp.GradScaler(device))

    def optimizer_step(  # type: ignore[override]
        self, optimizer: Any, model: Any, closure: Callable[[], Any], **kwargs: Any
    ) -> Any:
        """The optimiser's own step: by now the gradients are those of the unscaled loss, or none."""
        return Precision.optimizer_step(self, optimizer, model, closure, **kwargs)
