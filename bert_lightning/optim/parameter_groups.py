"""Parameter groups: the learning rate and weight decay of each parameter, by its depth and its name."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypedDict

from torch import nn

from bert_lightning.checks import require_fraction, require_positive


class ParameterGroup(TypedDict, total=False):
    """Parameters that share their settings, as `torch.optim` takes them."""

    params: list[nn.Parameter]
    lr: float
    weight_decay: float
    decayed: bool
    """False if `no_decay` exempts the parameters, whatever the weight decay"""
    num_matrices: int
    """how many matrices are stacked in each parameter; 0 for parameters that are not matrices of the blocks"""


@dataclass(frozen=True)
class ParameterGroupSettings:
    """Learning rates and weight decay by parameter; all rates follow the schedule.

    With L blocks and `layer_decay` d, block k = 1 ... L learns at d^(L + 1 - k) times the optimiser's rate. The head
    learns at d^0, the top block (with the pooler and a last LayerNorm) at d^1, and the embeddings at d^(L + 1).

    Sun et al. 2019 (arXiv 1905.05583) have one factor d less below the head: their top block learns at the full rate.
    ELECTRA (Clark et al. 2020, arXiv 2003.10555; its `model/optimization.py: _get_layer_lrs`) has one more:
    d^(L + 2 - k).

    Attributes:
        layer_decay: d; 1 for one rate everywhere. 0.95 in Sun et al., 0.8 and 0.9 in ELECTRA.
        head_learning_rate: the peak rate of the head, instead of the optimiser's.
        no_decay: regular expressions that are searched in parameter names. Matching parameters get no weight decay.
            The default exempts biases and LayerNorm but not embeddings, as `optimization.py: create_optimizer` does.
    """

    layer_decay: float = 1.0
    head_learning_rate: float | None = None
    no_decay: list[str] = field(default_factory=lambda: ["bias$", r"norm\."])

    def __post_init__(self) -> None:
        require_fraction(self, "layer_decay")
        require_positive(self, "head_learning_rate")
        for pattern in self.no_decay:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"no_decay: {pattern!r} is not a regular expression: {error}") from None

    def unmatched(self, names: Iterable[str]) -> list[str]:
        """Return the patterns of `no_decay` that match none of the names."""
        names = list(names)
        return [pattern for pattern in self.no_decay if not any(re.search(pattern, name) for name in names)]


def parameter_groups(
    module: nn.Module,
    depths: Mapping[str, int],
    learning_rate: float,
    weight_decay: float,
    settings: ParameterGroupSettings | None = None,
    matrices: Mapping[str, int] | None = None,
    beside: nn.Module | None = None,
) -> list[ParameterGroup]:
    """Sort the trainable parameters into groups with their own `lr` and `weight_decay`.

    Args:
        module: the model.
        depths: the depth of each parameter, by name; the head has the largest (`PretrainedModel.depths`).
        learning_rate: the optimiser's rate.
        weight_decay: the weight decay of parameters that are not exempt.
        settings: how rates and weight decay differ by parameter.
        matrices: parameters that get separate groups: name -> number of matrices stacked in it. If it is not None,
            each group has `num_matrices`.
        beside: modules that train beside the model, at the rate of the head.

    >>> model = nn.ModuleDict({"encoder": nn.Linear(2, 2), "head": nn.Linear(2, 2)})
    >>> depths = {name: int(name.startswith("head")) for name, _ in model.named_parameters()}
    >>> groups = parameter_groups(model, depths, 1e-3, 0.01, ParameterGroupSettings(layer_decay=0.5))
    >>> [(group["lr"], group["weight_decay"]) for group in groups]
    [(0.0005, 0.01), (0.0005, 0.0), (0.001, 0.01), (0.001, 0.0)]
    """
    settings = settings or ParameterGroupSettings()
    head = max(depths.values())
    groups: dict[tuple[float, bool, int], list[nn.Parameter]] = {}
    others = beside.named_parameters() if beside is not None else ()
    for name, parameter in (*module.named_parameters(), *others):
        if not parameter.requires_grad:
            continue
        depth = depths.get(name, head)
        rate = learning_rate * settings.layer_decay ** (head - depth)
        if depth == head and settings.head_learning_rate is not None:
            rate = settings.head_learning_rate
        decayed = not any(re.search(pattern, name) for pattern in settings.no_decay)
        groups.setdefault((rate, decayed, (matrices or {}).get(name, 0)), []).append(parameter)
    result: list[ParameterGroup] = []
    for (rate, decayed, num_matrices), members in groups.items():
        decay = weight_decay if decayed else 0.0
        group = ParameterGroup(params=members, lr=rate, weight_decay=decay, decayed=decayed)
        if matrices is not None:
            group["num_matrices"] = num_matrices
        result.append(group)
    return result
