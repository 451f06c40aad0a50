"""Quadratic penalties on the distance of weights from given values. Each step adds their gradient once."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bert_lightning.distributed.slices import local, slice_for, sums_of_slices


@dataclass(frozen=True)
class Anchor:
    """Where a parameter is drawn to, and how strongly.

    Attributes:
        centre: the values, of the parameter's shape; None for 0.
        strength: a number, or one for each value.
    """

    centre: Tensor | None
    strength: Tensor | float


class QuadraticPenalty:
    """The sum of 1/2 * strength * (value - centre)^2 over all values of some parameters.

    It belongs to no batch, so its gradient strength * (value - centre) is added once per step, after the last
    micro-batch, in every process for the slices that it holds. Parameters without a gradient are left as they are.

    Args:
        model: holds the parameters.
        anchors: name of a parameter -> its anchor.
    """

    def __init__(self, model: nn.Module, anchors: Mapping[str, Anchor]) -> None:
        self._model = model
        self._anchors = dict(anchors)
        self._own: dict[str, Anchor] | None = None

    @torch.no_grad()
    def add_gradients(self) -> None:
        """Add the gradient of the penalty to the gradients of the parameters."""
        parameters = self._parameters()
        for name, anchor in self._slices().items():
            parameter = parameters[name]
            if parameter.grad is not None:
                pull = anchor.strength * self._distance(parameter, anchor)
                local(parameter.grad).add_(pull.to(parameter.grad.dtype))

    @torch.no_grad()
    def value(self) -> Tensor:
        """Return the penalty, (), for the present weights; called by all processes."""
        values, like = [], []
        parameters = self._parameters()
        for name, anchor in self._slices().items():
            parameter = parameters[name]
            values.append((anchor.strength * self._distance(parameter, anchor).square()).sum() / 2)
            like.append(parameter)
        return sums_of_slices(values, like).sum() if values else torch.zeros(())

    def _parameters(self) -> dict[str, nn.Parameter]:
        return dict(self._model.named_parameters())

    def _slices(self) -> dict[str, Anchor]:
        """Return what this process holds of each anchor, on the device. The model may be split after it is built."""
        if self._own is None:
            parameters = self._parameters()
            self._own = {name: _own(anchor, parameters[name]) for name, anchor in self._anchors.items()}
            self._anchors = {}
        return self._own

    @staticmethod
    def _distance(parameter: Tensor, anchor: Anchor) -> Tensor:
        values = local(parameter).to(torch.promote_types(parameter.dtype, torch.float32))
        return values if anchor.centre is None else values - anchor.centre


def _own(anchor: Anchor, parameter: Tensor) -> Anchor:
    kind = torch.promote_types(parameter.dtype, torch.float32)

    def own(values: Tensor) -> Tensor:
        return slice_for(values, parameter).to(local(parameter).device, kind)

    strength = own(anchor.strength) if isinstance(anchor.strength, Tensor) else anchor.strength
    return Anchor(None if anchor.centre is None else own(anchor.centre), strength)
