"""The tanh form of GELU, computed on processors by way of the logistic function, which costs half as much.

0.5 (1 + tanh u) = sigmoid(2 u), so x * sigmoid(2 u) is the published activation; Hendrycks and Gimpel 2016 (arXiv
1606.08415), section 2. torch's vectors have a fast logistic function and a slow tanh.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from bert_lightning.model.layers.autograd import FunctionContext

# 2 u = x (_LINEAR + _CUBIC x^2); `modeling.py: gelu`.
_LINEAR = 2 * math.sqrt(2 / math.pi)
_CUBIC = 0.044715 * _LINEAR
# Elements computed at once in float32: few enough for the cache, many enough for several threads.
_NUM_ELEMENTS_AT_ONCE = 2**19


def gelu_new(values: Tensor) -> Tensor:
    """Return 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) of any shape; `modeling.py: gelu`.

    On a processor the derivative is computed together with the value, in float32, and kept in the type of the values.
    It has no second derivative then.

    >>> gelu_new(torch.tensor([-1.0, 0.0, 1.0])).tolist()
    [-0.15880800783634186, 0.0, 0.8411920070648193]
    """
    if not _is_plain(values):
        return F.gelu(values, approximate="tanh")
    if torch.is_grad_enabled() and values.requires_grad:
        result = _Gelu.apply(values)
        assert isinstance(result, Tensor)
        return result
    return _compute(values, None)


def _is_plain(values: Tensor) -> bool:
    """Return whether values are on a processor and nothing but autograd follows the computation."""
    if values.device.type != "cpu" or values.dtype not in (torch.float32, torch.bfloat16):
        return False
    is_traced = torch.compiler.is_compiling() or torch.jit.is_tracing() or type(values) not in _KINDS
    transforms = torch._C._are_functorch_transforms_active()
    return not (is_traced or transforms or forward_ad._current_level >= 0)


_KINDS = (Tensor, torch.nn.Parameter)


def _compute(values: Tensor, derivative: Tensor | None) -> Tensor:
    """Return the values of the function, and fill `derivative` with those of its derivative."""
    values = values.contiguous()
    result = torch.empty_like(values)
    pieces = [each.view(-1).split(_NUM_ELEMENTS_AT_ONCE) for each in (values, result)]
    of_derivative = derivative.view(-1).split(_NUM_ELEMENTS_AT_ONCE) if derivative is not None else None
    size = min(values.numel(), _NUM_ELEMENTS_AT_ONCE)
    buffers = torch.empty(3, size, dtype=torch.float32, device=values.device)
    for number, (piece, out) in enumerate(zip(*pieces, strict=True)):
        x, squares, logistic = buffers[:, : len(piece)]
        x.copy_(piece)
        torch.mul(x, x, out=squares)
        torch.mul(squares, _CUBIC, out=logistic).add_(_LINEAR).mul_(x).sigmoid_()
        x.mul_(logistic)
        out.copy_(x)
        if of_derivative is not None:
            # s + y (1 - s) d(2 u) / dx, with s = sigmoid(2 u) and y = x s.
            slope = squares.mul_(3 * _CUBIC).add_(_LINEAR).mul_(x)
            slope.addcmul_(slope, logistic, value=-1).add_(logistic)
            of_derivative[number].copy_(slope)
    return result


class _Gelu(torch.autograd.Function):
    """The function with the derivative that the forward pass has computed."""

    @staticmethod
    def forward(ctx: FunctionContext, values: Tensor) -> Tensor:
        derivative = torch.empty(values.shape, dtype=values.dtype)
        result = _compute(values, derivative)
        ctx.save_for_backward(derivative)
        return result

    @staticmethod
    def backward(ctx: FunctionContext, *gradients: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "gelu_new has no second derivative on a processor; hidden_act 'gelu_pytorch_tanh', which is the same "
                "function, has one"
            )
        [derivative] = ctx.saved_tensors
        return gradients[0] * derivative
