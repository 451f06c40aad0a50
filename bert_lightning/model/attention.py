"""Scaled dot-product self-attention over N heads of width D = H / N, behind one interface.

`modeling.py: attention_layer`. Where the original adds -10000 to the score of padding, all backends exclude it, which
differs by less than exp(-10000) = 0. Dropout falls on the attention probabilities in every backend.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from bert_lightning.model.dropout import dropout
from bert_lightning.model.packing import Packing, pad

AttentionName = Literal["auto", "eager", "sdpa", "varlen"]


class Layout(NamedTuple):
    """How sequences lie in a tensor: padded (B, S, ...) with or without a mask, or packed (T, ...)."""

    mask: Tensor | None = None
    """(B, 1, 1, S), True where a key may be attended to; None when nothing is padded"""
    packing: Packing | None = None


def layout_of(attention_mask: Tensor | None, packing: Packing | None = None) -> Layout:
    """Build a layout from the (B, S) mask of an input, nonzero at real tokens, or from the packing of (T,) tokens."""
    return Layout(None if attention_mask is None else attention_mask.to(torch.bool)[:, None, None, :], packing)


class Attended(NamedTuple):
    """What a backend gives."""

    context: Tensor
    """(B, S, H) or (T, H), as what went in"""
    weights: Tensor | None = None
    """(B, N, S, S) attention probabilities before dropout, from `eager` alone; n in place of B when packed"""


class Backend(NamedTuple):
    """One way to compute attention."""

    attend: Callable[[Tensor, Layout, int, float], Attended]
    """query_key_value (B, S, 3 H) or (T, 3 H), layout, number of heads, probability of dropout"""
    needs_packing: bool = False
    """whether it takes packed sequences only; the encoder then packs what is padded"""
    groups_lengths: bool = False
    """whether, on a processor, it takes packed sequences of one length together"""


def eager(query_key_value: Tensor, layout: Layout, num_heads: int, dropout_probability: float) -> Attended:
    """Written out, with the weights: (B, S, 3 H) or (T, 3 H) -> softmax(Q K^T / sqrt(D)) V per head.

    `dropout_probability` is the probability to drop an attention probability.
    """
    if layout.packing is not None:
        return _on_padded(eager, query_key_value, layout.packing, num_heads, dropout_probability)
    query, key, value = _heads(query_key_value, num_heads)
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    if layout.mask is not None:
        # Not minus infinity: a row without any token would become NaN and spread. In place: nothing needs the scores.
        excluded = torch.finfo(scores.dtype).min / 2
        scores = scores.add_((~layout.mask).to(scores.dtype) * excluded)
    # Summed in float32 whatever the type.
    weights = scores.softmax(-1).to(value.dtype)
    context = dropout(weights, dropout_probability) @ value
    return Attended(context.transpose(1, 2).flatten(2), weights)


def sdpa(query_key_value: Tensor, layout: Layout, num_heads: int, dropout_probability: float) -> Attended:
    """PyTorch's fused attention: (B, S, 3 H) or (T, 3 H) -> (B, S, H) or (T, H).

    On a processor its backward pass takes two to three times as long as that of `eager`, so what is to be trained
    there is written out. Packed sequences are attended to one by one there, neighbours of one length together, which
    is exact and the fastest measured (`experiments/benchmarks/packed_attention.py`); elsewhere, and under
    `torch.compile`, attention alone is padded.
    """
    on_processor = query_key_value.device.type == "cpu"
    packing = layout.packing
    if packing is None:
        if on_processor and torch.is_grad_enabled():
            return Attended(eager(query_key_value, layout, num_heads, dropout_probability).context)
        return Attended(_fused(query_key_value, layout.mask, num_heads, dropout_probability))
    if on_processor and not torch.compiler.is_compiling() and len(query_key_value):
        contexts = [
            sdpa(group, Layout(), num_heads, dropout_probability).context.flatten(0, 1)
            for group in _of_one_length(query_key_value, packing)
        ]
        return Attended(torch.cat(contexts))
    return _on_padded(sdpa, query_key_value, packing, num_heads, dropout_probability)


def varlen(query_key_value: Tensor, layout: Layout, num_heads: int, dropout_probability: float) -> Attended:
    """Flash attention over packed sequences on CUDA: (T, 3 H) -> (T, H)."""
    packing = layout.packing
    assert packing is not None, "the encoder packs for a backend that needs it"
    query, key, value = query_key_value.unflatten(-1, (3, num_heads, -1)).unbind(1)
    bounds, longest = packing.boundaries, packing.max_length
    if dropout_probability == 0:
        # Here, since it imports the compiler, which takes as long as the rest of torch.
        from torch.nn.attention.varlen import varlen_attn

        context = varlen_attn(query, key, value, bounds, bounds, longest, longest)
        assert isinstance(context, Tensor)
    else:
        # `varlen_attn` fixes dropout at 0; the operator behind it does not.
        context = torch.ops.aten._flash_attention_forward(
            query, key, value, bounds, bounds, longest, longest, dropout_probability, False, False
        )[0]
    return Attended(context.flatten(1))


_BACKENDS = {
    "eager": Backend(eager),
    "sdpa": Backend(sdpa, groups_lengths=True),
    "varlen": Backend(varlen, needs_packing=True),
}


def choose_backend(
    name: str, device: torch.device, dtype: torch.dtype, head_width: int, *, packed: bool, weights: bool
) -> Backend:
    """The backend of that name for what is at hand; `auto` takes the fastest that can do it.

    `auto` is `eager` where attention weights are asked for, `varlen` for packed sequences where it can run, and
    `sdpa` otherwise.

    Raises:
        ValueError: an unknown name, or a backend that cannot run here; the message says why.
    """
    if name not in get_args(AttentionName):
        raise ValueError(f"attention is {name!r}; known: {', '.join(get_args(AttentionName))}")
    obstacle = varlen_obstacle(device, dtype, head_width)
    if name == "auto":
        name = "eager" if weights else "varlen" if packed and obstacle is None else "sdpa"
    if weights and name != "eager":
        raise ValueError(f"attention weights need the eager backend, but attention is {name!r}")
    if name == "varlen" and obstacle is not None:
        raise ValueError(f"attention 'varlen' cannot run here: {obstacle}")
    return _BACKENDS[name]


def varlen_obstacle(device: torch.device, dtype: torch.dtype, head_width: int) -> str | None:
    """Why flash attention cannot run on such tensors; None if it can."""
    if device.type != "cuda":
        return f"its kernels are for CUDA, and the model is on {device.type}"
    if dtype not in (torch.float16, torch.bfloat16):
        return f"its kernels take 16-bit numbers, not {str(dtype).removeprefix('torch.')}: use bf16-mixed"
    if head_width % 8 or head_width > 256:
        return f"its kernels take head widths up to 256 in multiples of 8, not {head_width}"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return f"its kernels need compute capability 8.0, and this is {torch.cuda.get_device_name(device)}"
    return None


def _of_one_length(packed: Tensor, packing: Packing) -> Iterator[Tensor]:
    """(T, ...) -> neighbouring sequences of the same length together, (n, length, ...) each."""
    lengths = packing.boundaries.diff().tolist()
    groups = [(length, len(list(group))) for length, group in itertools.groupby(lengths)]
    pieces = packed.split([length * number for length, number in groups])
    for (length, number), piece in zip(groups, pieces, strict=True):
        yield piece.unflatten(0, (number, length))


def _on_padded(
    attend: Callable[[Tensor, Layout, int, float], Attended],
    query_key_value: Tensor,
    packing: Packing,
    num_heads: int,
    dropout_probability: float,
) -> Attended:
    """Attention over packed sequences by a padded copy."""
    padded, places = pad(query_key_value, packing)
    columns = torch.arange(packing.max_length, device=padded.device)
    mask = (columns < packing.lengths[:, None])[:, None, None, :]
    context, weights = attend(padded, Layout(mask), num_heads, dropout_probability)
    return Attended(context.flatten(0, 1)[places], weights)


def _heads(query_key_value: Tensor, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """(B, S, 3 H) -> 3 x (B, N, S, D)."""
    query, key, value = query_key_value.unflatten(-1, (3, num_heads, -1)).permute(2, 0, 3, 1, 4)
    return query, key, value


def _fused(query_key_value: Tensor, mask: Tensor | None, num_heads: int, dropout_probability: float) -> Tensor:
    context = F.scaled_dot_product_attention(
        *_heads(query_key_value, num_heads), attn_mask=mask, dropout_p=dropout_probability
    )
    return context.transpose(1, 2).flatten(2)
