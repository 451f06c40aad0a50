"""Linear layers of a block that a tuning changes with parameters of its own; `weight` and `bias` keep their names."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from bert_lightning.model.encoder import BertEncoder

STACKED: Mapping[str, tuple[str, ...]] = {"query_key_value": ("query", "key", "value")}
"""The linear layers of a block that hold several matrices, in order. Every other layer holds one."""


@dataclass(frozen=True)
class Change(ABC):
    """The change that a tuning makes to a linear layer (..., I) -> (..., O).

    The layer holds n stacked matrices, and p of them are adapted.

    Attributes:
        num_stacked: n.
        adapted: (p,) which of the stacked matrices are adapted, in order.
    """

    num_stacked: int
    adapted: tuple[int, ...]

    @property
    def num_adapted(self) -> int:
        """The number p of adapted matrices."""
        return len(self.adapted)

    @property
    def draws(self) -> bool:
        """Whether training draws random numbers for the inputs, as dropout does."""
        return False

    @abstractmethod
    def new_parameters(self, base: nn.Linear) -> dict[str, Tensor]:
        """Return the initial values of the parameters that are added to a layer, by name.

        Raises:
            ValueError: they do not fit the layer; the message begins with the name of the field.
        """

    @abstractmethod
    def slices(self, dimension: int) -> Mapping[str, tuple[int, int]]:
        """Return which added parameters are cut if the layer's matrix is, by rows (0) or columns (1).

        The values are the dimension of the parameter that is cut, and the number of matrices stacked in it.
        """

    @abstractmethod
    def outputs(
        self,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        added: Mapping[str, Tensor],
        *,
        training: bool,
        total: Callable[[Tensor], Tensor] = lambda values: values,
    ) -> Tensor:
        """Compute (..., I) -> (..., O).

        Args:
            hidden: the inputs.
            weight: (O, I).
            bias: (O,), or None.
            added: the added parameters.
            training: whether dropout acts.
            total: adds up, over the processes that share the layer's columns, the sums of each over its inputs.
        """

    @abstractmethod
    def merged(self, weight: Tensor, bias: Tensor, added: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return weight and bias of a plain layer that computes the same.

        Every step is exact or rounded once, in the same order on every processor. So every machine computes the same
        bits, and the merged models have the same SHA-256.
        """

    def rows_of(self, values: Tensor) -> Tensor:
        """Return the rows of the adapted matrices of (O, ...), as (p, O / n, ...)."""
        return values.unflatten(0, (self.num_stacked, -1))[list(self.adapted)]

    def spread(self, values: Tensor, elsewhere: float) -> Tensor:
        """Return (O,) from (p O / n,), with a constant at the outputs of matrices that are not adapted."""
        if self.num_adapted == self.num_stacked:
            return values
        parts = dict(zip(self.adapted, values.chunk(self.num_adapted), strict=True))
        constant = torch.full_like(parts[self.adapted[0]], elsewhere)
        return torch.cat([parts.get(part, constant) for part in range(self.num_stacked)])


class ChangedLinear(nn.Linear):
    """A frozen linear layer that a tuning changes.

    Attributes:
        change: computes the outputs with the added parameters.
        added_names: the names of these, which are parameters of this module.
    """

    def __init__(self, base: nn.Linear, change: Change) -> None:
        # The parameters are those of the base, so none are allocated.
        super().__init__(base.in_features, base.out_features, bias=base.bias is not None, device="meta")
        self.weight, self.bias = base.weight, base.bias
        self.change = change
        added = change.new_parameters(base)
        for name, values in added.items():
            self.register_parameter(name, nn.Parameter(values))
        self.added_names = tuple(added)

    def forward(self, hidden: Tensor) -> Tensor:
        """Compute (..., I) -> (..., O)."""
        added = {name: self.get_parameter(name) for name in self.added_names}
        return self.change.outputs(hidden, self.weight, self.bias, added, training=self.training)


def change_layers(encoder: "BertEncoder", changes: Mapping[str, Change], field: str) -> None:
    """Put changed layers in place of layers of each block, by their names.

    Raises:
        ValueError: a block has no such layer, or a change does not fit; the message begins with the field's name.
    """
    for block in encoder.layers:
        for name, change in changes.items():
            layer = getattr(block, name, None)
            if not isinstance(layer, nn.Linear):
                raise ValueError(f"{field}, but {type(block).__name__} has no layer {name}")
            setattr(block, name, ChangedLinear(layer, change))


def merge_layers(
    tensors: dict[str, Tensor], changes: Mapping[str, Change], added: Sequence[str]
) -> dict[str, Tensor]:
    """Return the tensors with changed layers merged, and without the parameters `added`; others are passed on."""
    endings = tuple(f".{name}" for name in added)
    plain = {name: tensor for name, tensor in tensors.items() if not name.endswith(endings)}
    for layer in dict.fromkeys(name.rpartition(".")[0] for name in tensors if name.endswith(endings)):
        change = changes[layer.rpartition(".")[2]]
        own = {name: tensors[f"{layer}.{name}"] for name in added if f"{layer}.{name}" in tensors}
        before = plain[f"{layer}.weight"], plain[f"{layer}.bias"]
        plain[f"{layer}.weight"], plain[f"{layer}.bias"] = change.merged(*before, own)
    return plain
