"""Which rate and which weight decay each parameter gets: by its depth and its name."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from bert_lightning.checks import RefusedValue


@dataclass(frozen=True)
class ParameterGroupSettings:
    """Rates and weight decay by parameter; all rates follow the schedule.

    With L blocks and `layer_decay` d, block k = 1 ... L learns at d^(L + 1 - k) times the optimiser's rate: the head
    at d^0, the top block (with the pooler and a last LayerNorm) at d^1, the embeddings at d^(L + 1).

    Sun et al. 2019 (arXiv 1905.05583) have one factor d less below the head: their top block learns at the full rate.
    ELECTRA (Clark et al. 2020, arXiv 2003.10555; its `model/optimization.py: _get_layer_lrs`) has one more:
    d^(L + 2 - k).

    Attributes:
        layer_decay: d; 1 for one rate everywhere. 0.95 in Sun et al., 0.8 and 0.9 in ELECTRA.
        head_learning_rate: the head's own peak rate, in place of the optimiser's.
        no_decay: regular expressions searched in parameter names; what matches gets no weight decay. Biases and
            LayerNorm as in `optimization.py: create_optimizer`, so embeddings are decayed.
    """

    layer_decay: float = 1.0
    head_learning_rate: float | None = None
    no_decay: list[str] = field(default_factory=lambda: ["bias$", r"norm\."])

    def __post_init__(self) -> None:
        if not 0 < self.layer_decay <= 1:
            raise RefusedValue("layer_decay", self.layer_decay, "be more than 0 and at most 1")
        if self.head_learning_rate is not None and self.head_learning_rate <= 0:
            raise RefusedValue("head_learning_rate", self.head_learning_rate, "be more than 0")
        for pattern in self.no_decay:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"no_decay: {pattern!r} is no regular expression: {error}") from None

    def unmatched(self, names: Iterable[str]) -> list[str]:
        """The patterns of `no_decay` that no name holds."""
        names = list(names)
        return [pattern for pattern in self.no_decay if not any(re.search(pattern, name) for name in names)]


def parameter_groups(
    module: nn.Module,
    depths: Mapping[str, int],
    learning_rate: float,
    weight_decay: float,
    settings: ParameterGroupSettings | None = None,
    matrices: Mapping[str, int] | None = None,
) -> list[dict[str, Any]]:
    """Groups with an `lr` and a `weight_decay` of their own; each trainable parameter is in exactly one.

    `decayed` is false in those that `no_decay` spares, whatever the weight decay.

    Args:
        module: the model.
        depths: how far up each parameter lies, by name, the head's being the largest.
        learning_rate: the optimiser's own.
        weight_decay: of what is not spared.
        settings: what differs by parameter.
        matrices: parameters that are to be apart from the others, by name, with how many matrices are stacked in
            each; groups then say `num_matrices`, 0 for the others.
    """
    settings = settings or ParameterGroupSettings()
    head = max(depths.values())
    groups: dict[tuple[float, bool, int], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        rate = learning_rate * settings.layer_decay ** (head - depths[name])
        if depths[name] == head and settings.head_learning_rate is not None:
            rate = settings.head_learning_rate
        decayed = not any(re.search(pattern, name) for pattern in settings.no_decay)
        groups.setdefault((rate, decayed, (matrices or {}).get(name, 0)), []).append(parameter)
    return [
        {"params": members, "lr": rate, "weight_decay": weight_decay if decayed else 0.0, "decayed": decayed}
        | ({} if matrices is None else {"num_matrices": stacked})
        for (rate, decayed, stacked), members in groups.items()
    ]
