"""Cross-entropy over a vocabulary, computed from hidden states without a float32 copy of the logits.

For M tokens and V entries the usual way stores M * V numbers five times: the logits, their float32 copy, the
log-softmax of that copy, and the gradients of copy and logits. Here they are stored once, in the type of the matrix
products. The logits of a few tokens at a time are replaced by their gradients while they are in the cache.
"""

from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from bert_lightning.model.layers.autograd import FunctionContext

# Logits that are processed at once. A CPU's cache holds a few megabytes; an accelerator needs more to be busy.
_NUM_ELEMENTS_AT_ONCE = {"cpu": 2**20}
_NUM_ELEMENTS_ELSEWHERE = 2**26


class TokenLoss(NamedTuple):
    """Summed loss and number of correct predictions of some tokens."""

    loss: Tensor
    """() sum of the cross-entropies, in float32 at least"""
    num_right: Tensor
    """() number of tokens whose label has the highest score"""


def token_loss(hidden: Tensor, matrix: Tensor, bias: Tensor, labels: Tensor) -> TokenLoss:
    """Return the summed loss of the logits `hidden @ matrix.T + bias`: (M, E), (V, E), (V,) and labels (M,).

    If `hidden` has more rows than there are labels, the last rows count for nothing.

    The logits are computed in full in float16, where unscaled gradients would vanish, and under `torch.compile`,
    which fuses the operations itself.
    """
    dtype = _dtype_of_products(hidden)
    if dtype == torch.float16 or torch.compiler.is_compiling():
        logits = F.linear(hidden, matrix, bias)[: len(labels)]
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


class _Context(FunctionContext, Protocol):
    """A context that also stores the types of the inputs."""

    dtypes: tuple[torch.dtype, torch.dtype, torch.dtype]


class _LinearCrossEntropy(torch.autograd.Function):
    """Cross-entropy that computes d loss / d logits = softmax(logits) - onehot(labels) in the forward pass."""

    @staticmethod
    def forward(
        ctx: _Context, hidden: Tensor, matrix: Tensor, bias: Tensor, labels: Tensor, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        cast_hidden, cast_matrix = hidden.to(dtype), matrix.to(dtype)
        with torch.autocast(hidden.device.type, enabled=False):
            logits = F.linear(cast_hidden, cast_matrix)
        with_gradient = any(ctx.needs_input_grad)
        loss = torch.zeros((), dtype=_summed_in(dtype), device=hidden.device)
        num_right = torch.zeros((), dtype=torch.int64, device=hidden.device)
        at_once = _NUM_ELEMENTS_AT_ONCE.get(hidden.device.type, _NUM_ELEMENTS_ELSEWHERE)
        num_tokens = max(at_once // logits.shape[1], 1)
        counted, others = logits.split([len(labels), len(logits) - len(labels)])
        others.zero_()
        for some_logits, targets in zip(counted.split(num_tokens), labels.split(num_tokens), strict=True):
            scores = some_logits + bias.to(loss.dtype)
            highest, of_labels = scores.amax(-1), scores.gather(1, targets[:, None])[:, 0]
            probabilities = scores.softmax(-1)
            # The largest probability is 1 / sum(exp(scores - highest)).
            loss += (highest - of_labels - probabilities.amax(-1).log()).sum()
            num_right += (of_labels == highest).sum()
            if with_gradient:
                # Not `scatter_add_`, which is not deterministic on CUDA.
                probabilities.scatter_(1, targets[:, None], probabilities.gather(1, targets[:, None]) - 1)
                some_logits.copy_(probabilities)
        if with_gradient:
            ctx.save_for_backward(logits, cast_hidden, cast_matrix)
            ctx.dtypes = hidden.dtype, matrix.dtype, bias.dtype
        ctx.mark_non_differentiable(num_right)
        return loss, num_right

    @staticmethod
    def backward(ctx: _Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError("this loss has no second derivative; compute the cross-entropy of the logits instead")
        (of_logits, hidden, matrix), factor = ctx.saved_tensors, gradients[0]
        dtypes = ctx.dtypes
        of_hidden = ((of_logits @ matrix) * factor).to(dtypes[0]) if ctx.needs_input_grad[0] else None
        # Apply the factor to the smaller of the two matrices.
        of_matrix = (of_logits.T @ (hidden * factor).to(hidden.dtype)).to(dtypes[1])
        # A product, because torch's sum over tokens takes ten times as long.
        of_bias = ((of_logits.new_ones(1, len(of_logits)) @ of_logits)[0] * factor).to(dtypes[2])
        return of_hidden, of_matrix, of_bias, None, None
