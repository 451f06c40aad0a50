"""The initialisation of a model's weights, as published."""

from typing import Any

from torch import nn


def initialize(module: nn.Module, standard_deviation: float) -> None:
    """Initialise weights as in the original code, `modeling.py: create_initializer` (truncated_normal_initializer).

    Weights come from a normal distribution truncated at two standard deviations. Biases are 0. The weights of
    LayerNorm are 1. A module of another class that has `reset_parameters` is initialised by it, after the modules
    inside it.
    """
    others: list[Any] = []
    for child in module.modules():
        if isinstance(child, nn.Linear | nn.Embedding):
            limit = 2 * standard_deviation
            nn.init.trunc_normal_(child.weight, std=standard_deviation, a=-limit, b=limit)
        if isinstance(child, nn.Linear) and child.bias is not None:
            nn.init.zeros_(child.bias)
        if isinstance(child, nn.LayerNorm):
            nn.init.ones_(child.weight)
            nn.init.zeros_(child.bias)
        if not isinstance(child, nn.Linear | nn.Embedding | nn.LayerNorm) and hasattr(child, "reset_parameters"):
            others.append(child)
    for child in reversed(others):
        child.reset_parameters()
