"""Custom heads, in place of the linear layer of a task model."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bert_lightning.checkpoints.checkpoint import Checkpoint
from bert_lightning.model.config import BertConfig
from bert_lightning.model.layers.packing import Packing, pad
from bert_lightning.model.parts import ContractError, PartTable

LINEAR = "linear"
"""The head that came with this package."""
HEADS: PartTable[type[nn.Module]] = PartTable("the head", nn.Module, {})
"""Custom heads by name."""


class HeadChoice(NamedTuple):
    """The name of a custom head, and its arguments."""

    name: str
    init_args: dict[str, Any]


def register_head(name: str, head: type[nn.Module]) -> None:
    """Add a head, which the argument `head` of the task models and `model.head` can then name.

    Args:
        name: its name, which checkpoints hold.
        head: a subclass of `nn.Module`. It is built as `head(config, num_outputs, **init_args)`. Its `forward` takes
            `hidden`, `pooled` and `mask`. `hidden` holds the hidden states (B, S, H). `pooled` is what the linear
            head reads: the pooled sequence (B, H), or the states of both entities (B, 2 H). `mask` (B, S) is True at
            real tokens, or None. `forward` returns scores (B, num_outputs), or (B, S, num_outputs) in models that
            score tokens. Packed sequences are padded for it. With the class attribute `uses_pooled = False`, the
            model has no pooler.

    Raises:
        ValueError: the name is taken, or the class is not a module.

    >>> class FirstToken(nn.Module):
    ...     uses_pooled = False
    ...
    ...     def __init__(self, config, num_outputs, width=8):
    ...         super().__init__()
    ...         self.layers = nn.Sequential(nn.Linear(config.hidden_size, width), nn.Linear(width, num_outputs))
    ...
    ...     def forward(self, hidden, pooled, mask):
    ...         return self.layers(hidden[:, 0])
    >>> register_head("first-token", FirstToken)
    """
    if name == LINEAR:
        raise ValueError(f"the head {name!r} is registered already: choose another name")
    HEADS.register(name, head)


def head_choice(head: str | Mapping[str, object] | None) -> HeadChoice | None:
    """Return the head that a name, or a mapping with `name` and `init_args`, chooses; None for the linear head.

    Raises:
        ValueError: there is no such head, or the mapping has other keys.
    """
    if head is None or head == LINEAR:
        return None
    values = {"name": head} if isinstance(head, str) else dict(head)
    name, arguments = values.pop("name", None), values.pop("init_args", {})
    if values or not isinstance(name, str) or not isinstance(arguments, dict):
        raise ValueError(f"head is {head!r}; expected a name, or a mapping with name and init_args")
    if name == LINEAR:
        if arguments:
            raise ValueError(f"init_args is {arguments!r}, but the linear head takes none; only a custom head does")
        return None
    HEADS.require("head", name, LINEAR)
    return HeadChoice(name, arguments)


def saved_head(checkpoint: Checkpoint) -> dict[str, object]:
    """Return the argument `head` for a checkpoint with a custom head; nothing for the linear head."""
    head = checkpoint.task_settings.get("head")
    return {} if head is None else {"head": head}


def new_head(choice: HeadChoice | None, config: BertConfig, num_outputs: int, width: int) -> nn.Module:
    """Build a head without initialising it: a linear layer from (..., width), or the chosen one.

    Raises:
        ValueError: the chosen head does not take its arguments.
    """
    if choice is None:
        return nn.Linear(width, num_outputs)
    head: nn.Module = HEADS.make("head", choice.name, config, num_outputs, **choice.init_args)
    return head


def encoder_config(choice: HeadChoice | None, config: BertConfig) -> BertConfig:
    """Return the architecture of the encoder for a head of sequences: without pooler if the head does not read it."""
    uses_pooled = choice is None or getattr(HEADS[choice.name], "uses_pooled", True)
    return config if uses_pooled else config.replace(pooler=False)


def scores_of(
    head: nn.Module,
    hidden: Tensor,
    pooled: Tensor,
    attention_mask: Tensor | None,
    packing: Packing | None,
    *,
    num_outputs: int,
    per_token: bool,
) -> Tensor:
    """Score (B, S, H) or packed (T, H) with a custom head: (B, L) per sequence; (B, S, L) or (T, L) per token.

    Raises:
        ContractError: the head returns something else.
    """
    indices = None
    mask = None if attention_mask is None else attention_mask.to(torch.bool)
    if packing is not None:
        hidden, indices = pad(hidden, packing)
        mask = torch.arange(hidden.shape[1], device=hidden.device) < packing.lengths[:, None]
    scores: Tensor = head(hidden, pooled, mask)
    expected = (*hidden.shape[: 2 if per_token else 1], num_outputs)
    if not isinstance(scores, Tensor) or not scores.is_floating_point():
        kind = str(scores.dtype) if isinstance(scores, Tensor) else type(scores).__name__
        raise ContractError(f"model.head: the head returned {kind}; expected a floating-point tensor of scores")
    if scores.shape != expected:
        raise ContractError(
            f"model.head: the head returned the shape {tuple(scores.shape)}; expected {tuple(expected)}"
        )
    return scores.flatten(0, 1)[indices] if indices is not None and per_token else scores
