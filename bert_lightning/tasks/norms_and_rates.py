"""Norms of gradients and parameters, and the learning rates of parameter groups, as the log of training shows them.

A *place* is a part of the model by depth: `embeddings`, `block_1` to `block_L`, `head`. The pooler
belongs to the top block.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from typing import Literal

import torch
from torch import Tensor, nn

from bert_lightning.distributed.slices import local, norms
from bert_lightning.model.pretrained import PretrainedModel
from bert_lightning.training.finite import GradientNorms

NormsLogged = Literal["none", "total", "blocks"]
GRADIENT_NORM, PARAMETER_NORM, LEARNING_RATE = "train/gradient_norm", "train/parameter_norm", "train/learning_rate"


def is_diagnosis(metric: str) -> bool:
    """Return whether a metric describes the updates, and not what was learnt.

    >>> [is_diagnosis(f"train/{name}") for name in ("gradient_norm_head", "learning_rate", "loss")]
    [True, True, False]
    """
    return metric.startswith((GRADIENT_NORM, PARAMETER_NORM, LEARNING_RATE))


class Places:
    """The place of each parameter of a model, in order from the embeddings to the head."""

    def __init__(self, model: PretrainedModel) -> None:
        depths = model.depths()
        self._head = model.config.num_hidden_layers + 1
        self._depths = {id(parameter): depths[name] for name, parameter in model.named_parameters()}

    def depth(self, parameter: nn.Parameter) -> int:
        """Return the depth of a parameter; one that the model does not have counts as part of the head."""
        return self._depths.get(id(parameter), self._head)

    def name(self, depths: Iterable[int], all_depths: Sequence[int]) -> str:
        """Name the place of some depths among those that train."""
        chosen = sorted(set(depths))
        if chosen == list(all_depths):
            return "model"
        if len(chosen) > 1 and chosen == [depth for depth in all_depths if depth != self._head]:
            return "encoder"
        return "_".join(map(self._name, chosen))

    def _name(self, depth: int) -> str:
        if depth == self._head:
            return "head"
        return f"block_{depth}" if depth else "embeddings"

    def members(self, parameters: Sequence[nn.Parameter]) -> Mapping[str, list[int]]:
        """Return the numbers of the parameters of each place."""
        depths = [self.depth(parameter) for parameter in parameters]
        return {
            self._name(depth): [number for number, own in enumerate(depths) if own == depth]
            for depth in sorted(set(depths))
        }


class LoggedNorms:
    """The norms of one step, computed on its device and not yet read from there.

    Args:
        model: its parameters are those after the update.
        gradients: the norms of the gradients of the step, before they were clipped.
        logged: `none`, `total` for the global norms, or `blocks` for those of each place too.
    """

    def __init__(self, model: PretrainedModel, gradients: GradientNorms, logged: NormsLogged) -> None:
        self._squares: dict[str, Tensor] = {}
        if logged == "none":
            return
        places = Places(model) if logged == "blocks" else None
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._add(GRADIENT_NORM, gradients.parameters, gradients.values, places)
        self._add(PARAMETER_NORM, trained, norms([local(each.detach()) for each in trained], trained), places)

    def _add(self, name: str, parameters: Sequence[nn.Parameter], values: Tensor, places: Places | None) -> None:
        if not parameters:
            return
        squares = values.square()
        self._squares[name] = squares.sum()
        if places is not None:
            of_each = squares.unbind()
            for place, numbers in places.members(parameters).items():
                self._squares[f"{name}_{place}"] = torch.stack([of_each[number] for number in numbers]).sum()

    def read(self) -> dict[str, float]:
        """Return the norms by name. This waits for the device."""
        if not self._squares:
            return {}
        return dict(zip(self._squares, torch.stack(list(self._squares.values())).sqrt().tolist(), strict=True))


def learning_rates(
    model: PretrainedModel, optimizer: torch.optim.Optimizer, learning_rate: float
) -> dict[str, float]:
    """Return the learning rates of the next step by metric.

    `train/learning_rate` is that of the group that begins at the optimiser's own rate, or, if none does, at the
    highest one. If groups begin at different rates, each rate has a metric of its own, which names the places whose
    parameters it moves, such as `train/learning_rate_head`.
    """
    groups = [(float(group.get("initial_lr", group["lr"])), group) for group in optimizer.param_groups]
    initial = [rate for rate, _ in groups]
    number = initial.index(learning_rate) if learning_rate in initial else initial.index(max(initial))
    rates = {LEARNING_RATE: float(groups[number][1]["lr"])}
    if len(set(initial)) == 1:
        return rates
    places = Places(model)
    depths: dict[float, set[int]] = {}
    now: dict[float, float] = {}
    for first, group in groups:
        depths.setdefault(first, set()).update(map(places.depth, group["params"]))
        now.setdefault(first, float(group["lr"]))
    all_depths = sorted(set().union(*depths.values()))
    for first, rate in now.items():
        name = f"{LEARNING_RATE}_{places.name(depths[first], all_depths)}"
        # An optimiser of the user's may move one place at several rates.
        rates[next(free for n in count(1) if (free := name if n == 1 else f"{name}_{n}") not in rates)] = rate
    return rates
