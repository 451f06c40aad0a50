"""LoRA: low-rank factors are added to the matrices of the blocks, which stay frozen."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bert_lightning.checks import require_at_least, require_below_one, require_positive
from bert_lightning.model.layers.dropout import dropout
from bert_lightning.model.tuning.tuning import Tuning

if TYPE_CHECKING:
    from bert_lightning.model.encoder import BertEncoder

Target = Literal["query", "key", "value", "attention_output", "intermediate", "output"]
# The matrices stacked in one linear layer of a block, in order. Every other target is a layer of its own.
_STACKED: Mapping[str, tuple[str, ...]] = {"query_key_value": ("query", "key", "value")}
_A, _B = "lora_a", "lora_b"


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

    def __post_init__(self) -> None:
        require_at_least(self, 1, "rank")
        require_positive(self, "alpha")
        require_below_one(self, "dropout")
        known = get_args(Target)
        if not self.targets or len({*self.targets}) != len(self.targets) or not {*self.targets} <= {*known}:
            raise ValueError(f"targets is {self.targets}; it must name one or more of {', '.join(known)}, each once")
        # One order, so that two lists of the same targets are one experiment.
        object.__setattr__(self, "targets", [name for name in known if name in self.targets])

    @property
    def scaling(self) -> float:
        """The factor on the product of the factors."""
        return self.alpha / self.rank

    def apply(self, encoder: "BertEncoder") -> None:
        for block in encoder.layers:
            for name in self._layers():
                layer = getattr(block, name, None)
                if not isinstance(layer, nn.Linear):
                    raise ValueError(f"targets is {self.targets}, but {type(block).__name__} has no layer {name}")
                setattr(block, name, LowRankLinear(layer, self._low_rank(name)))

    def merged(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors with W + (alpha / rank) B A in place of each W, and without the factors."""
        plain = {name: tensor for name, tensor in tensors.items() if not name.endswith((f".{_A}", f".{_B}"))}
        for name in tensors:
            if name.endswith(f".{_A}"):
                layer = name.removesuffix(f".{_A}")
                low_rank, weight = self._low_rank(layer.rpartition(".")[2]), plain[f"{layer}.weight"]
                added = low_rank.product(tensors[name], tensors[f"{layer}.{_B}"])
                plain[f"{layer}.weight"] = (weight.double() + added).to(weight.dtype)
        return plain

    def _layers(self) -> list[str]:
        """Return the names of the adapted layers of a block."""
        stacks = {matrix: layer for layer, matrices in _STACKED.items() for matrix in matrices}
        return list(dict.fromkeys(stacks.get(target, target) for target in self.targets))

    def _low_rank(self, layer: str) -> "LowRank":
        matrices = _STACKED.get(layer, (layer,))
        adapted = tuple(number for number, name in enumerate(matrices) if name in self.targets)
        return LowRank(self.rank, self.scaling, self.dropout, len(matrices), adapted)


class LowRank(NamedTuple):
    """The addition of low-rank factors to the output of a linear layer (..., I) -> (..., O) with n stacked matrices.

    p of the n matrices are adapted. Their factors are stacked too: A is (p r, I), B is (p O / n, r).
    """

    rank: int
    """r"""
    scaling: float
    """factor on the product"""
    dropout: float
    """dropout rate of the input"""
    num_stacked: int
    """n"""
    adapted: Sequence[int]
    """(p,) which of the stacked matrices are adapted, in order"""

    @property
    def num_adapted(self) -> int:
        """The number p of adapted matrices."""
        return len(self.adapted)

    def __call__(self, hidden: Tensor, a: Tensor, b: Tensor, *, training: bool) -> Tensor:
        """Compute the addition (..., I) -> (..., O). It is exactly 0 at outputs of matrices that are not adapted."""
        inner = F.linear(dropout(hidden, self.dropout) if training else hidden, a)
        return F.linear(inner, self._spread(b) * self.scaling)

    def product(self, a: Tensor, b: Tensor) -> Tensor:
        """Return (O, I) the addition to the matrix, in float64.

        The terms are added one by one, so that every machine gets the same bits and the merged model the same
        SHA-256. A matrix product would depend on the processor.
        """
        matrices = b.double().unflatten(0, (self.num_adapted, -1))
        added = matrices.new_zeros(self.num_stacked, matrices.shape[1], a.shape[1])
        for part, own, rows in zip(self.adapted, matrices, a.double().split(self.rank), strict=True):
            for column, row in zip(own.unbind(1), rows, strict=True):
                added[part] += (self.scaling * column)[:, None] * row
        return added.flatten(0, 1)

    def _spread(self, b: Tensor) -> Tensor:
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


class LowRankLinear(nn.Linear):
    """A frozen linear layer with trained low-rank factors; `weight` and `bias` keep their names.

    Attributes:
        low_rank: computes what the factors add.
        lora_a: A, (p r, I).
        lora_b: B, (p O / n, r).
    """

    def __init__(self, base: nn.Linear, low_rank: LowRank) -> None:
        # The parameters are those of the base, so none are allocated.
        super().__init__(base.in_features, base.out_features, bias=base.bias is not None, device="meta")
        self.weight, self.bias = base.weight, base.bias
        self.low_rank = low_rank
        height = base.out_features // low_rank.num_stacked
        if low_rank.rank > min(height, base.in_features):
            raise ValueError(
                f"rank is {low_rank.rank}, but a matrix of {height} x {base.in_features} has at most rank "
                f"{min(height, base.in_features)}"
            )
        self.lora_a = nn.Parameter(base.weight.new_empty(low_rank.num_adapted * low_rank.rank, base.in_features))
        self.lora_b = nn.Parameter(base.weight.new_zeros(low_rank.num_adapted * height, low_rank.rank))
        # loralib/layers.py: Linear.reset_parameters.
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))

    def forward(self, hidden: Tensor) -> Tensor:
        """Compute (..., I) -> (..., O)."""
        base = F.linear(hidden, self.weight, self.bias)
        return base + self.low_rank(hidden, self.lora_a, self.lora_b, training=self.training)
