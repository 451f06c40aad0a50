"""LoRA: low-rank factors are added to the matrices of the blocks, which stay frozen."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bert_lightning.checks import require_at_least, require_below_one, require_positive
from bert_lightning.model.layers.dropout import dropout
from bert_lightning.model.tuning.changed_linear import STACKED, Change, change_layers, merge_layers
from bert_lightning.model.tuning.tuning import Tuning

if TYPE_CHECKING:
    from bert_lightning.model.encoder import BertEncoder

Target = Literal["query", "key", "value", "attention_output", "intermediate", "output"]
A, B = "lora_a", "lora_b"


@dataclass(frozen=True)
class Lora(Tuning):
    """Low-rank adaptation: W + (alpha / rank) B A in place of W, where W is frozen; Hu et al. 2021, arXiv 2106.09685.

    B begins as zeros, so training begins with exactly the base model. A begins as in the authors' loralib and in
    PEFT: uniform in +-1 / sqrt(inputs). Query, key and value have separate factors, although their matrices are
    stacked in one parameter. The head and parameters that the base lacks train as usual. Everything else is frozen.

    Attributes:
        rank: r, the inner width of the factors; 8 in the paper's experiments on GLUE.
        alpha: the product of the factors is multiplied by alpha / rank.
        dropout: dropout rate of the input of the factors; 0 in the paper's experiments on GLUE.
        targets: the matrices that are adapted: query, key, value, attention_output, intermediate, output. Query and
            value as published.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: list[Target] = field(default_factory=lambda: ["query", "value"])

    # Mao et al. 2022 (UniPELT, arXiv 2110.07577), section 4.1: at most 50 epochs, with early stopping.
    default_learning_rate: ClassVar[float | None] = 5e-4
    default_epochs: ClassVar[float | None] = 50

    def __post_init__(self) -> None:
        require_at_least(self, 1, "rank")
        require_positive(self, "alpha")
        require_below_one(self, "dropout")
        known = get_args(Target)
        if not self.targets or len({*self.targets}) != len(self.targets) or not {*self.targets} <= {*known}:
            raise ValueError(f"targets is {self.targets}; it must name one or more of {', '.join(known)}, each once")
        # One order, so that two lists of the same targets are one experiment.
        object.__setattr__(self, "targets", [name for name in known if name in self.targets])

    def apply(self, encoder: "BertEncoder") -> None:
        change_layers(encoder, self.changes(), f"targets is {self.targets}")

    def merged(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors with W + (alpha / rank) B A in place of each W, and without the factors."""
        return merge_layers(tensors, self.changes(), (A, B))

    def changes(self) -> dict[str, "LowRank"]:
        """Return what changes in each adapted layer of a block, by the name of the layer."""
        stacks = {matrix: layer for layer, matrices in STACKED.items() for matrix in matrices}
        return {layer: self._change(layer) for layer in (stacks.get(target, target) for target in self.targets)}

    def _change(self, layer: str) -> "LowRank":
        return LowRank(*self._adapted(layer), self.rank, self.alpha / self.rank, self.dropout)

    def _adapted(self, layer: str) -> tuple[int, tuple[int, ...]]:
        """Return how many matrices are stacked in a layer, and which of them are adapted."""
        matrices = STACKED.get(layer, (layer,))
        return len(matrices), tuple(number for number, name in enumerate(matrices) if name in self.targets)


@dataclass(frozen=True)
class LowRank(Change):
    """The addition of low-rank factors to the outputs of a layer.

    The factors of the p adapted matrices are stacked too: A is (p r, I), B is (p O / n, r).

    Attributes:
        rank: r.
        scaling: factor on the product.
        dropout: dropout rate of the input.
    """

    rank: int
    scaling: float
    dropout: float

    @property
    def draws(self) -> bool:
        return self.dropout > 0

    def new_parameters(self, base: nn.Linear) -> dict[str, Tensor]:
        height = base.out_features // self.num_stacked
        if self.rank > min(height, base.in_features):
            raise ValueError(
                f"rank is {self.rank}, but a matrix of {height} x {base.in_features} has at most rank "
                f"{min(height, base.in_features)}"
            )
        a = base.weight.new_empty(self.num_adapted * self.rank, base.in_features)
        # loralib/layers.py: Linear.reset_parameters.
        nn.init.kaiming_uniform_(a, a=math.sqrt(5))
        return {A: a, B: base.weight.new_zeros(self.num_adapted * height, self.rank)}

    def slices(self, dimension: int) -> Mapping[str, tuple[int, int]]:
        # The rows of B are outputs of the layer, the columns of A its inputs.
        return {B: (0, self.num_adapted)} if dimension == 0 else {A: (1, 1)}

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
        return F.linear(hidden, weight, bias) + self.addition(hidden, added, training=training)

    def addition(self, hidden: Tensor, added: Mapping[str, Tensor], *, training: bool) -> Tensor:
        """Compute what is added, (..., I) -> (..., O); exactly 0 at outputs of matrices that are not adapted."""
        inner = F.linear(dropout(hidden, self.dropout) if training else hidden, added[A])
        return F.linear(inner, self._blocks(added[B]) * self.scaling)

    def merged(self, weight: Tensor, bias: Tensor, added: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        return (weight.double() + self.product(added)).to(weight.dtype), bias

    def product(self, added: Mapping[str, Tensor]) -> Tensor:
        """Return (O, I) the addition to the matrix, in float64.

        The terms are added one by one. A matrix product would depend on the processor.
        """
        a, b = added[A].double(), added[B].double()
        matrices = b.unflatten(0, (self.num_adapted, -1))
        result = matrices.new_zeros(self.num_stacked, matrices.shape[1], a.shape[1])
        for part, own, rows in zip(self.adapted, matrices, a.split(self.rank), strict=True):
            for column, row in zip(own.unbind(1), rows, strict=True):
                result[part] += (self.scaling * column)[:, None] * row
        return result.flatten(0, 1)

    def _blocks(self, b: Tensor) -> Tensor:
        """Place the stacked (p O / n, r) as blocks in (O, p r), zeros elsewhere, so that one product computes all."""
        if self.num_stacked == 1:
            return b
        blocks = dict(zip(self.adapted, b.unflatten(0, (self.num_adapted, -1)).unbind(0), strict=True))
        empty = b.new_zeros(b.shape[0] // self.num_adapted, self.num_adapted * self.rank)
        rows = []
        for part in range(self.num_stacked):
            if part in blocks:
                before = self.adapted.index(part) * self.rank
                rows.append(F.pad(blocks[part], (before, empty.shape[1] - before - self.rank)))
            else:
                rows.append(empty)
        return torch.cat(rows)
