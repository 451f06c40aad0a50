"""Dropout whose random numbers do not dominate training on a processor.

torch draws one number of its serial generator an element there, which takes longer than the matrix products of a
small model. Sixteen bits an element are enough, and four of them come from one draw.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

_LEVELS = 2**16
# Integers as wide as the numbers of a type.
_BITS = {
    torch.bfloat16: torch.int16,
    torch.float16: torch.int16,
    torch.float32: torch.int32,
    torch.float64: torch.int64,
}


class Dropout(nn.Dropout):
    """As in torch, by `dropout`."""

    def forward(self, values: Tensor) -> Tensor:
        """Any shape -> the same."""
        return dropout(values, self.p) if self.training else values


def dropout(values: Tensor, probability: float) -> Tensor:
    """Each element 0 with `probability`, else divided by 1 - `probability`: any shape -> the same.

    On a processor the probability is rounded to a multiple of 2^-16, and what is left is divided by what that leaves,
    so that the expectation is exact. The draw is of torch's own generator, so that a seed repeats it.
    """
    if probability == 0 or values.numel() == 0:
        return values
    if values.device.type != "cpu":
        return F.dropout(values, probability)
    result = _Dropout.apply(values, round(probability * _LEVELS))
    assert isinstance(result, Tensor)
    return result


def _draw(num: int) -> Tensor:
    """(num,) int64, every bit random, from a seed that torch's generator draws.

    numpy's SFC64 takes half the time of torch's own generator; a compiler sees through the latter alone.
    """
    highest = 2**63 - 1
    if torch.compiler.is_compiling():
        return torch.randint(-highest - 1, highest, (num,))
    seed = int(torch.randint(highest, ()))
    return torch.from_numpy(np.random.SFC64(seed).random_raw(num).view(np.int64))


def _zero_or(factor: float, levels: Tensor, least: int, dtype: torch.dtype) -> Tensor:
    """`factor` where a level is `least` or above, else 0; any shape -> the same, of `dtype`.

    Through integers, a tenth of the time: the bits of the factor times 1 or 0.
    """
    if torch.compiler.is_compiling():
        return (levels >= least).to(dtype).mul_(factor)
    bits = torch.tensor(factor, dtype=dtype).view(_BITS[dtype])
    mask = torch.empty_like(levels, dtype=bits.dtype)
    torch.ge(levels, least, out=mask)
    return mask.mul_(bits).view(dtype)


class _Dropout(torch.autograd.Function):
    """Multiply by a mask that holds 0 and the factor of what is left."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, num_dropped: int) -> Tensor:
        levels = _draw((values.numel() + 3) // 4).view(torch.int16)[: values.numel()].view(values.shape)
        factor = _LEVELS / (_LEVELS - num_dropped) if num_dropped < _LEVELS else 0.0
        mask = _zero_or(factor, levels, num_dropped - _LEVELS // 2, values.dtype)
        ctx.save_for_backward(mask)
        return values * mask

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        [mask] = ctx.saved_tensors
        return gradients[0] * mask, None
