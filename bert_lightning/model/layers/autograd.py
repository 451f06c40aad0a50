"""The type of the context that torch passes to a custom autograd function."""

from typing import Protocol

from torch import Tensor


class FunctionContext(Protocol):
    """The attributes of the context that the model's autograd functions use."""

    saved_tensors: tuple[Tensor, ...]
    needs_input_grad: tuple[bool, ...]

    def save_for_backward(self, *tensors: Tensor) -> None: ...

    def mark_non_differentiable(self, *tensors: Tensor) -> None: ...
