"""Fast dropout on CPUs.

On a CPU, torch draws one number per element from a serial generator. In a small model this takes longer than the
matrix products. Sixteen random bits per element are enough, so one draw of 64 bits serves four elements.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bert_lightning.model.layers.autograd import FunctionContext

_LEVELS = 2**16
# The integer type of the same width as each floating-point type.
_BITS = {
    torch.bfloat16: torch.int16,
    torch.float16: torch.int16,
    torch.float32: torch.int32,
    torch.float64: torch.int64,
}


class Dropout(nn.Dropout):
    """torch's dropout layer, computed by `dropout`."""

    def forward(self, values: Tensor) -> Tensor:
        return dropout(values, self.p) if self.training else values


def dropout(values: Tensor, probability: float) -> Tensor:
    """Set each element to 0 with `probability` and divide the others by 1 - `probability`; keep the shape.

    On a CPU the probability is rounded to a multiple of 2^-16. The kept elements are divided by 1 - the rounded
    probability, so the expectation is exact. The seed comes from torch's generator, so runs are repeatable.

    >>> dropout(torch.ones(4), 0.0)
    tensor([1., 1., 1., 1.])
    >>> sorted(set(dropout(torch.ones(1000), 0.5).tolist()))
    [0.0, 2.0]
    """
    if probability == 0 or values.numel() == 0:
        return values
    if values.device.type != "cpu":
        return F.dropout(values, probability)
    result = _Dropout.apply(values, round(probability * _LEVELS))
    assert isinstance(result, Tensor)
    return result


def _random_bits(num: int) -> Tensor:
    """Return (num,) int64 with random bits, from a seed that torch's generator draws.

    numpy's SFC64 takes half the time of torch's generator, but `torch.compile` can trace only torch's.
    """
    highest = 2**63 - 1
    if torch.compiler.is_compiling():
        return torch.randint(-highest - 1, highest, (num,))
    seed = int(torch.randint(highest, ()))
    return torch.from_numpy(np.random.SFC64(seed).random_raw(num).view(np.int64))


def _scaled_mask(factor: float, levels: Tensor, least: int, dtype: torch.dtype) -> Tensor:
    """Return `factor` at levels of at least `least` and 0 at the others, in `dtype`.

    The bits of the factor are multiplied as integers by 1 or 0, which takes a tenth of the time.
    """
    if torch.compiler.is_compiling():
        return (levels >= least).to(dtype).mul_(factor)
    bits = torch.tensor(factor, dtype=dtype).view(_BITS[dtype])
    mask = torch.empty_like(levels, dtype=bits.dtype)
    torch.ge(levels, least, out=mask)
    return mask.mul_(bits).view(dtype)


class _Dropout(torch.autograd.Function):
    """Product with a mask that holds 0 for dropped elements and the scaling factor for the others."""

    @staticmethod
    def forward(ctx: FunctionContext, values: Tensor, num_dropped: int) -> Tensor:
        levels = _random_bits((values.numel() + 3) // 4).view(torch.int16)[: values.numel()].view(values.shape)
        factor = _LEVELS / (_LEVELS - num_dropped) if num_dropped < _LEVELS else 0.0
        mask = _scaled_mask(factor, levels, num_dropped - _LEVELS // 2, values.dtype)
        ctx.save_for_backward(mask)
        return values * mask

    @staticmethod
    def backward(ctx: FunctionContext, *gradients: Tensor) -> tuple[Tensor, None]:
        [mask] = ctx.saved_tensors
        return gradients[0] * mask, None
