"""Cross-entropy over a vocabulary straight from hidden states, without a float32 copy of the logits.

For M tokens and V entries the usual way holds M * V numbers five times over: the logits, their float32 copy, its
log-softmax, and the gradients of both. Here it is once, in the type that the products have: a few rows at a time
become their own gradient while they are in the cache.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# A few megabytes of logits: what a processor's cache holds; on an accelerator enough to keep it busy.
_NUM_ELEMENTS_AT_ONCE = {"cpu": 2**20}
_NUM_ELEMENTS_ELSEWHERE = 2**26


class TokenLoss(NamedTuple):
    """What a vocabulary's scores of some tokens come to."""

    loss: Tensor
    """() the sum of the cross-entropies, in float32 at least"""
    num_right: Tensor
    """() tokens whose highest score is the label's"""


def token_loss(hidden: Tensor, matrix: Tensor, bias: Tensor, labels: Tensor) -> TokenLoss:
    """(M, E), (V, E), (V,) and labels (M,) -> the loss of the logits `hidden @ matrix.T + bias`, summed.

    In float16, where unscaled gradients would vanish, and under `torch.compile`, which fuses it itself, the logits
    are written out.
    """
    dtype = _dtype_of_products(hidden)
    if dtype == torch.float16 or torch.compiler.is_compiling():
        logits = F.linear(hidden, matrix, bias)
        loss = F.cross_entropy(logits.to(_summed_in(logits.dtype)), labels, reduction="sum")
        return TokenLoss(loss, (logits.detach().argmax(-1) == labels).sum())
    return TokenLoss(*_LinearCrossEntropy.apply(hidden, matrix, bias, labels, dtype))


def _dtype_of_products(hidden: Tensor) -> torch.dtype:
    device = hidden.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return hidden.dtype


def _summed_in(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


class _LinearCrossEntropy(torch.autograd.Function):
    """d loss / d logits = softmax(logits) - onehot(labels), found in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, matrix: Tensor, bias: Tensor, labels: Tensor, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        cast_hidden, cast_matrix = hidden.to(dtype), matrix.to(dtype)
        with torch.autocast(hidden.device.type, enabled=False):
            logits = F.linear(cast_hidden, cast_matrix)
        with_gradient = any(ctx.needs_input_grad)
        loss = torch.zeros((), dtype=_summed_in(dtype), device=hidden.device)
        num_right = torch.zeros((), dtype=torch.int64, device=hidden.device)
        at_once = _NUM_ELEMENTS_AT_ONCE.get(hidden.device.type, _NUM_ELEMENTS_ELSEWHERE)
        num_rows = max(at_once // logits.shape[1], 1)
        for rows, wanted in zip(logits.split(num_rows), labels.split(num_rows), strict=True):
            scores = rows + bias.to(loss.dtype)
            highest, of_labels = scores.amax(-1), scores.gather(1, wanted[:, None])[:, 0]
            chances = scores.softmax(-1)
            # The largest probability is 1 / sum(exp(scores - highest)).
            loss += (highest - of_labels - chances.amax(-1).log()).sum()
            num_right += (of_labels == highest).sum()
            if with_gradient:
                # Not added in place, which has no deterministic form on CUDA.
                chances.scatter_(1, wanted[:, None], chances.gather(1, wanted[:, None]) - 1)
                rows.copy_(chances)
        if with_gradient:
            ctx.save_for_backward(logits, cast_hidden, cast_matrix)
            ctx.dtypes = hidden.dtype, matrix.dtype, bias.dtype
        ctx.mark_non_differentiable(num_right)
        return loss, num_right

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError("this loss has no second derivative: take the cross-entropy of the logits for that")
        (of_logits, hidden, matrix), factor = ctx.saved_tensors, gradients[0]
        dtypes = ctx.dtypes
        of_hidden = ((of_logits @ matrix) * factor).to(dtypes[0]) if ctx.needs_input_grad[0] else None
        # The factor on the smaller of the two.
        of_matrix = (of_logits.T @ (hidden * factor).to(hidden.dtype)).to(dtypes[1])
        # As a product: torch's sum down the columns takes ten times as long.
        of_bias = ((of_logits.new_ones(1, len(of_logits)) @ of_logits)[0] * factor).to(dtypes[2])
        return of_hidden, of_matrix, of_bias, None, None
