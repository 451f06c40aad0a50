"""Scaled dot-product self-attention over N heads of width D = H / N, with exchangeable backends.

The original is `modeling.py: attention_layer`. It adds -10000 to the scores of padding. All backends here exclude
padding. This makes no difference, because exp(-10000) is 0 in floating point. Every backend applies dropout to the
attention probabilities.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from bert_lightning.model.layers.dropout import dropout
from bert_lightning.model.layers.packing import Packing, groups_of_lengths, packing_of, pad
from bert_lightning.model.parts import ContractError, PartTable

AttentionName = Literal["auto", "eager", "sdpa", "varlen"]
PUBLISHED_ATTENTION = "dot_product"
"""The attention that all backends compute: softmax(Q K^T / sqrt(D)) V."""


class Layout(NamedTuple):
    """Arrangement of sequences in a tensor: padded (B, S, ...) with or without a mask, or packed (T, ...)."""

    mask: Tensor | None = None
    """(B, 1, 1, S), True at the keys that may be attended to; None if nothing is padded"""
    packing: Packing | None = None


def layout_of(attention_mask: Tensor | None, packing: Packing | None = None) -> Layout:
    """Build a layout from the (B, S) mask of an input, nonzero at real tokens, or from the packing of (T,) tokens."""
    return Layout(None if attention_mask is None else attention_mask.to(torch.bool)[:, None, None, :], packing)


class AttentionOutput(NamedTuple):
    """Output of a backend."""

    context: Tensor
    """(B, S, H) or (T, H), like the input"""
    weights: Tensor | None = None
    """(B, N, S, S) attention probabilities before dropout, only from `eager`; n instead of B if packed"""


class Backend(NamedTuple):
    """One way to compute attention."""

    attend: Callable[[Tensor, Layout, int, float], AttentionOutput]
    """takes query_key_value (B, S, 3 H) or (T, 3 H), the layout, the number of heads and the dropout probability"""
    needs_packing: bool = False
    """True if it takes only packed sequences; the encoder then packs padded input"""
    groups_lengths: bool = False
    """True if, on a CPU, it computes neighbouring packed sequences of similar length together"""


def eager(query_key_value: Tensor, layout: Layout, num_heads: int, dropout_probability: float) -> AttentionOutput:
    """Compute softmax(Q K^T / sqrt(D)) V per head step by step, and return the weights too.

    Takes (B, S, 3 H) or (T, 3 H). Each attention probability is dropped with `dropout_probability`.
    """
    if layout.packing is not None:
        return _attend_padded(eager, query_key_value, layout.packing, num_heads, dropout_probability)
    query, key, value = _split_heads(query_key_value, num_heads)
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    if layout.mask is not None:
        # Minus infinity would turn the outputs of a sequence without a real token into NaN. The sum is in place,
        # because the scores are not needed again.
        excluded = torch.finfo(scores.dtype).min / 2
        scores = scores.add_((~layout.mask).to(scores.dtype) * excluded)
    # The softmax sums in at least float32, for any type.
    weights = scores.softmax(-1).to(value.dtype)
    context = dropout(weights, dropout_probability) @ value
    return AttentionOutput(context.transpose(1, 2).flatten(2), weights)


def sdpa(query_key_value: Tensor, layout: Layout, num_heads: int, dropout_probability: float) -> AttentionOutput:
    """Compute PyTorch's fused attention: (B, S, 3 H) or (T, 3 H) -> (B, S, H) or (T, H).

    On a CPU its backward pass takes two to three times as long as that of `eager`, so with gradients `eager` is used
    there. On a CPU, packed sequences are computed in groups of neighbours of similar length. For all but
    short sequences this is faster than padding all of them to one length
    (`experiments/benchmarks/packed_attention.py`). On other devices, and under `torch.compile`, packed sequences are
    padded for the attention alone.
    """
    on_cpu = query_key_value.device.type == "cpu"
    packing = layout.packing
    if packing is None:
        if on_cpu and torch.is_grad_enabled():
            return AttentionOutput(eager(query_key_value, layout, num_heads, dropout_probability).context)
        return AttentionOutput(_fused_attention(query_key_value, layout.mask, num_heads, dropout_probability))
    if on_cpu and not torch.compiler.is_compiling() and len(query_key_value):
        return AttentionOutput(_attend_in_groups(query_key_value, packing, num_heads, dropout_probability))
    return _attend_padded(sdpa, query_key_value, packing, num_heads, dropout_probability)


def varlen(query_key_value: Tensor, layout: Layout, num_heads: int, dropout_probability: float) -> AttentionOutput:
    """Compute flash attention over packed sequences on CUDA: (T, 3 H) -> (T, H)."""
    packing = layout.packing
    assert packing is not None, "the encoder packs the input of backends that need it"
    query, key, value = query_key_value.unflatten(-1, (3, num_heads, -1)).unbind(1)
    bounds, longest = packing.boundaries, packing.max_length
    if dropout_probability == 0:
        # Imported here because it imports the compiler, which takes as long as the rest of torch.
        from torch.nn.attention.varlen import varlen_attn

        context = varlen_attn(query, key, value, bounds, bounds, longest, longest)
        assert isinstance(context, Tensor)
    else:
        # `varlen_attn` fixes dropout at 0; the operator that it calls does not.
        context = torch.ops.aten._flash_attention_forward(
            query, key, value, bounds, bounds, longest, longest, dropout_probability, False, False
        )[0]
    return AttentionOutput(context.flatten(1))


_BACKENDS = {
    "eager": Backend(eager),
    "sdpa": Backend(sdpa, groups_lengths=True),
    "varlen": Backend(varlen, needs_packing=True),
}


ATTENTIONS: PartTable[Callable[..., object]] = PartTable("the attention", None, {})
"""Custom attention by name: a function, or a module class that each block builds with the architecture."""


def register_attention(name: str, attention: Callable[..., object]) -> None:
    """Add a custom attention, which `attention` can then name.

    It replaces the published attention, which the backends compute.

    It is called as `attention(query, key, value, layout, dropout)`. The first three are (B, N, S, D). `layout.mask`
    is None or (B, 1, 1, S), True at the keys that may be attended to. `dropout` is a probability, 0 in evaluation.
    The attention returns the context, also (B, N, S, D), or the context and the attention weights (B, N, S, S).
    Packed sequences are padded for it. If it has the attribute `takes_packed = True`, it is always called with packed
    sequences instead: (T, N, D), with their boundaries in `layout.packing`.

    Args:
        name: its name, which checkpoints hold.
        attention: a function, or a subclass of `nn.Module` whose `forward` is called so. The class is built with the
            architecture, and its parameters are named `encoder.layers.<number>.attention.<...>`.

    Raises:
        ValueError: the name is taken.

    >>> def uniform(query, key, value, layout, dropout):
    ...     weights = torch.ones_like(query @ key.mT)
    ...     if layout.mask is not None:
    ...         weights = weights * layout.mask
    ...     return weights / weights.sum(-1, keepdim=True) @ value
    >>> register_attention("uniform", uniform)
    """
    if name in (PUBLISHED_ATTENTION, *get_args(AttentionName)):
        raise ValueError(f"the attention {name!r} is registered already: choose another name")
    ATTENTIONS.register(name, attention)


def takes_packed(attention: object) -> bool:
    """Return whether a custom attention is called with packed sequences."""
    return bool(getattr(attention, "takes_packed", False))


def attend_with(
    attention: Callable[..., object],
    query_key_value: Tensor,
    layout: Layout,
    num_heads: int,
    dropout_probability: float,
) -> AttentionOutput:
    """Compute a custom attention: (B, S, 3 H) or (T, 3 H) -> (B, S, H) or (T, H).

    Raises:
        ContractError: it does not return a tensor with the shape of the query.
    """
    if layout.packing is not None and not takes_packed(attention):

        def attend(padded: Tensor, inner: Layout, heads: int, probability: float) -> AttentionOutput:
            return attend_with(attention, padded, inner, heads, probability)

        return _attend_padded(attend, query_key_value, layout.packing, num_heads, dropout_probability)
    if layout.packing is None:
        query, key, value = _split_heads(query_key_value, num_heads)
    else:
        query, key, value = query_key_value.unflatten(-1, (3, num_heads, -1)).unbind(1)
    result = attention(query, key, value, layout, dropout_probability)
    context, weights = result if isinstance(result, tuple) else (result, None)
    if not isinstance(context, Tensor):
        raise ContractError(f"model.attention: an attention returned {type(context).__name__}; expected a tensor")
    if context.shape != query.shape:
        raise ContractError(
            f"model.attention: an attention returned the shape {tuple(context.shape)}, but the query has "
            f"{tuple(query.shape)}"
        )
    return AttentionOutput((context.transpose(1, 2) if layout.packing is None else context).flatten(-2), weights)


def choose_backend(
    name: str, device: torch.device, dtype: torch.dtype, head_width: int, *, packed: bool, weights: bool
) -> Backend:
    """Return the backend of that name; `auto` means the fastest suitable one.

    `auto` is `eager` if attention weights are requested, `varlen` for packed sequences if it can run, and `sdpa`
    otherwise.

    Raises:
        ValueError: the name is unknown, or the backend cannot run here; the message says why.
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
    """Return why flash attention cannot run on such tensors, or None if it can."""
    if device.type != "cuda":
        return f"its kernels are for CUDA, and the model is on {device.type}"
    if dtype not in (torch.float16, torch.bfloat16):
        return f"its kernels take 16-bit numbers, not {str(dtype).removeprefix('torch.')}: use bf16-mixed"
    if head_width % 8 or head_width > 256:
        return f"its kernels take head widths up to 256 in multiples of 8, not {head_width}"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return f"its kernels need compute capability 8.0, and this is {torch.cuda.get_device_name(device)}"
    return None


def _attend_in_groups(
    query_key_value: Tensor, packing: Packing, num_heads: int, dropout_probability: float
) -> Tensor:
    """Compute `sdpa` over packed sequences in groups whose shapes repeat: (T, 3 H) -> (T, H).

    Neighbours of equal length are computed together, in groups of a power of two. Shorter sequences are padded to one
    of a few lengths. Rows after the last sequence, which round the number of rows, become 0.
    """
    groups = groups_of_lengths(packing.boundaries.diff().tolist())
    sizes = [group.num_tokens for group in groups]
    *pieces, rest = query_key_value.split([*sizes, len(query_key_value) - sum(sizes)])
    contexts = []
    for group, piece in zip(groups, pieces, strict=True):
        if group.is_padded:
            inner = packing_of(torch.tensor(group.lengths))._replace(max_length=group.padded_length)
            contexts.append(_attend_padded(sdpa, piece, inner, num_heads, dropout_probability).context)
        else:
            sequences = piece.unflatten(0, (len(group.lengths), group.padded_length))
            contexts.append(sdpa(sequences, Layout(), num_heads, dropout_probability).context.flatten(0, 1))
    contexts.append(rest.new_zeros(len(rest), query_key_value.shape[1] // 3))
    return torch.cat(contexts)


def _attend_padded(
    attend: Callable[[Tensor, Layout, int, float], AttentionOutput],
    query_key_value: Tensor,
    packing: Packing,
    num_heads: int,
    dropout_probability: float,
) -> AttentionOutput:
    """Compute attention over packed sequences through a padded copy."""
    padded, indices = pad(query_key_value, packing)
    columns = torch.arange(packing.max_length, device=padded.device)
    mask = (columns < packing.lengths[:, None])[:, None, None, :]
    context, weights = attend(padded, Layout(mask), num_heads, dropout_probability)
    return AttentionOutput(context.flatten(0, 1)[indices], weights)


def _split_heads(query_key_value: Tensor, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Split query, key and value: (B, S, 3 H) -> 3 x (B, N, S, D)."""
    query, key, value = query_key_value.unflatten(-1, (3, num_heads, -1)).permute(2, 0, 3, 1, 4)
    return query, key, value


def _fused_attention(
    query_key_value: Tensor, mask: Tensor | None, num_heads: int, dropout_probability: float
) -> Tensor:
    context = F.scaled_dot_product_attention(
        *_split_heads(query_key_value, num_heads), attn_mask=mask, dropout_p=dropout_probability
    )
    return context.transpose(1, 2).flatten(2)
