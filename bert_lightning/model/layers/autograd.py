"""Shared parts of custom computations: the context of autograd functions, and a way to compute without autocast."""

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch
from torch import Tensor


class FunctionContext(Protocol):
    """The attributes of the context that the model's autograd functions use."""

    saved_tensors: tuple[Tensor, ...]
    needs_input_grad: tuple[bool, ...]

    def save_for_backward(self, *tensors: Tensor) -> None: ...

    def mark_non_differentiable(self, *tensors: Tensor) -> None: ...


def without_autocast(tensor: Tensor) -> AbstractContextManager[object]:
    """Switch autocast off on the device of a tensor, if it has autocast; the meta device does not."""
    device = tensor.device.type
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()
