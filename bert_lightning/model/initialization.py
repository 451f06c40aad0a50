"""The initialisation of a model's weights, as published."""

from typing import Any

import torch
from torch import Tensor, nn


def initialize(module: nn.Module, standard_deviation: float) -> None:
    """Initialise weights as in the original code, `modeling.py: create_initializer` (truncated_normal_initializer).

    Weights come from a normal distribution truncated at two standard deviations. Biases are 0. The weights of
    LayerNorm are 1. A module of another class that has `reset_parameters` is initialised by it, after the modules
    inside it.
    """
    others: list[Any] = []
    for child in module.modules():
        if isinstance(child, nn.Linear | nn.Embedding):
            fill_truncated_normal(child.weight, standard_deviation)
        if isinstance(child, nn.Linear) and child.bias is not None:
            nn.init.zeros_(child.bias)
        if isinstance(child, nn.LayerNorm):
            nn.init.ones_(child.weight)
            nn.init.zeros_(child.bias)
        if not isinstance(child, nn.Linear | nn.Embedding | nn.LayerNorm) and hasattr(child, "reset_parameters"):
            others.append(child)
    for child in reversed(others):
        child.reset_parameters()


@torch.no_grad()
def fill_truncated_normal(values: Tensor, standard_deviation: float) -> None:
    """Fill a tensor with normal draws, and draw those beyond two standard deviations again, as TensorFlow does.

    `nn.init.trunc_normal_` draws the whole tensor again until each of its values fits, which takes several times as
    long (torch 2.13).
    """
    values.normal_(0.0, standard_deviation)
    if values.is_meta:
        return
    flat, limit = values.view(-1), 2 * standard_deviation
    beyond = (flat.abs() > limit).nonzero().squeeze(1)
    while len(beyond):
        drawn = flat.new_empty(len(beyond)).normal_(0.0, standard_deviation)
        flat[beyond] = drawn
        beyond = beyond[drawn.abs() > limit]
