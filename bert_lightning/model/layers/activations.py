"""Activation functions of the feed-forward layers and of the MLM head."""

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F

from bert_lightning.model.layers.gelu import gelu_new
from bert_lightning.model.parts import PartTable

ACTIVATIONS: PartTable[Callable[..., object]] = PartTable(
    "the activation",
    None,
    # `gelu_new` is the tanh approximation of the original code, `gelu` the exact form with erf. `gelu_pytorch_tanh`,
    # transformers' name, is torch's own computation of the tanh form, which has a second derivative.
    {
        "gelu_new": gelu_new,
        "gelu": F.gelu,
        "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
        "relu": F.relu,
        "silu": F.silu,
    },
)
"""Value of `hidden_act` -> a function from a tensor (..., I) to one of the same shape, or a class of modules of that
form. Each block and the MLM head build their own module, without positional arguments."""


def register_activation(name: str, activation: Callable[..., object]) -> None:
    """Add an activation, which `hidden_act` can then name.

    Args:
        name: its name, which checkpoints hold.
        activation: a function of a tensor (..., I) that keeps the shape, or a subclass of `nn.Module` of that form.

    Raises:
        ValueError: the name is taken.

    >>> import torch
    >>> from bert_lightning.model import BertConfig, BertEncoder
    >>> register_activation("squared_relu", lambda x: x.relu().square())
    >>> _ = BertEncoder(BertConfig.preset("tiny", vocab_size=100, hidden_act="squared_relu"))
    """
    ACTIVATIONS.register(name, activation)
