"""Cross-entropy over a vocabulary, computed from hidden states without a float32 copy of the logits.

For M tokens and V entries the usual way stores M * V numbers five times: the logits, their float32 copy, the
log-softmax of that copy, and the gradients of copy and logits. Here they are stored once, in the type of the matrix
products. The logits of a few tokens at a time are replaced by their gradients while they are in the cache.
"""

from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from bert_lightning.model.layers.autograd import FunctionContext, without_autocast
from bert_lightning.model.losses import IGNORED

# Logits that are processed at once. A CPU's cache holds a few megabytes; an accelerator needs more to be busy.
_NUM_ELEMENTS_AT_ONCE = {"cpu": 2**20}
_NUM_ELEMENTS_ELSEWHERE = 2**26
# An accelerator computes products fast if rows begin at multiples of 16 bytes and widths are multiples of its tiles.
# A row of 30,522 logits in 16 bits is not; NVIDIA's and MosaicML's BERT have vocabularies of 30,528.
_WIDTH_MULTIPLE = {"cpu": 1}
_WIDTH_MULTIPLE_ELSEWHERE = 64


class TokenLoss(NamedTuple):
    """Summed loss and number of correct predictions of some tokens."""

    loss: Tensor
    """() sum of the cross-entropies, in float32 at least"""
    num_right: Tensor
    """() number of tokens whose label has the highest score"""


def token_loss(hidden: Tensor, matrix: Tensor, bias: Tensor, labels: Tensor) -> TokenLoss:
    """Return the summed loss of the logits `hidden @ matrix.T + bias`: (M, E), (V, E), (V,) and labels (M,).

    A token whose label is `IGNORED` counts for nothing: it has no loss, no gradient, and is never right.

    In two cases the loss is computed in the usual way: in float16, where unscaled gradients would vanish, and under
    `torch.compile`, which fuses the operations itself.
    """
    dtype = _dtype_of_products(hidden)
    if dtype == torch.float16 or torch.compiler.is_compiling():
        added = _added_rows(matrix)
        padded = (F.pad(matrix, (0, 0, 0, added)), F.pad(bias, (0, added))) if added else (matrix, bias)
        logits = F.linear(hidden, *padded)[:, : len(matrix)]
        scores = logits.to(_summed_in(logits.dtype))
        loss = F.cross_entropy(scores, labels, ignore_index=IGNORED, reduction="sum")
        return TokenLoss(loss, (logits.detach().argmax(-1) == labels).sum())
    return TokenLoss(*_LinearCrossEntropy.apply(hidden, matrix, bias, labels, dtype))


def _dtype_of_products(hidden: Tensor) -> torch.dtype:
    device = hidden.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return hidden.dtype


def _added_rows(matrix: Tensor) -> int:
    """Return how many rows of zeros make the number of rows a multiple that suits the device."""
    return -len(matrix) % _WIDTH_MULTIPLE.get(matrix.device.type, _WIDTH_MULTIPLE_ELSEWHERE)


def _cast_and_padded(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a matrix in a type, with rows of zeros that suit the device; itself if nothing changes."""
    added = _added_rows(matrix)
    if not added:
        return matrix.to(dtype)
    padded = torch.empty(len(matrix) + added, matrix.shape[1], dtype=dtype, device=matrix.device)
    padded[: len(matrix)].copy_(matrix)
    padded[len(matrix) :].zero_()
    return padded


def _summed_in(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


class _Context(FunctionContext, Protocol):
    """A context that also stores the types of the inputs and the size of the vocabulary."""

    dtypes: tuple[torch.dtype, torch.dtype, torch.dtype]
    size: int


class _LinearCrossEntropy(torch.autograd.Function):
    """Cross-entropy that computes d loss / d logits = softmax(logits) - onehot(labels) in the forward pass."""

    @staticmethod
    def forward(
        ctx: _Context, hidden: Tensor, matrix: Tensor, bias: Tensor, labels: Tensor, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        cast_hidden, cast_matrix, size = hidden.to(dtype), _cast_and_padded(matrix, dtype), len(matrix)
        with without_autocast(hidden):
            logits = F.linear(cast_hidden, cast_matrix)
        with_gradient = any(ctx.needs_input_grad)
        loss = torch.zeros((), dtype=_summed_in(dtype), device=hidden.device)
        num_right = torch.zeros((), dtype=torch.int64, device=hidden.device)
        at_once = _NUM_ELEMENTS_AT_ONCE.get(hidden.device.type, _NUM_ELEMENTS_ELSEWHERE)
        num_tokens = max(at_once // size, 1)
        counted = labels != IGNORED
        chunks = (each.split(num_tokens) for each in (logits[:, :size], labels.masked_fill(~counted, 0), counted))
        for some_logits, targets, are_counted in zip(*chunks, strict=True):
            scores = some_logits + bias.to(loss.dtype)
            highest, of_labels = scores.amax(-1), scores.gather(1, targets[:, None])[:, 0]
            probabilities = scores.softmax(-1)
            # The largest probability is 1 / sum(exp(scores - highest)).
            losses = highest - of_labels - probabilities.amax(-1).log()
            loss += losses.masked_fill(~are_counted, 0).sum()
            num_right += ((of_labels == highest) & are_counted).sum()
            if with_gradient:
                # Not `scatter_add_`, which is not deterministic on CUDA.
                probabilities.scatter_(1, targets[:, None], probabilities.gather(1, targets[:, None]) - 1)
                some_logits.copy_(probabilities)
        if with_gradient:
            ctx.save_for_backward(logits, cast_hidden, cast_matrix, counted)
            ctx.dtypes, ctx.size = (hidden.dtype, matrix.dtype, bias.dtype), size
        ctx.mark_non_differentiable(num_right)
        return loss, num_right

    @staticmethod
    def backward(ctx: _Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError("this loss has no second derivative; compute the cross-entropy of the logits instead")
        of_logits, hidden, matrix, counted = ctx.saved_tensors
        dtypes, size = ctx.dtypes, ctx.size
        # The gradients of ignored tokens are left out here, where there are few numbers.
        factor, ignored = gradients[0], ~counted[:, None]
        of_hidden = None
        if ctx.needs_input_grad[0]:
            of_hidden = ((of_logits @ matrix) * factor).masked_fill_(ignored, 0).to(dtypes[0])
        # Apply the factor to the smaller of the two matrices. Columns beyond the vocabulary are 0.
        scaled = (hidden * factor).to(hidden.dtype).masked_fill_(ignored, 0)
        of_matrix = (of_logits.T @ scaled)[:size].to(dtypes[1])
        # A product, because torch's sum over tokens takes ten times as long.
        of_bias = ((counted.to(of_logits.dtype)[None] @ of_logits)[0, :size] * factor).to(dtypes[2])
        return of_hidden, of_matrix, of_bias, None, None
