"""DoRA: LoRA changes the direction of each row of a matrix, and a trained number its length."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bert_lightning.model.layers.autograd import without_autocast
from bert_lightning.model.tuning.changed_linear import merge_layers
from bert_lightning.model.tuning.lora import A, B, Lora, LowRank

MAGNITUDE = "magnitude"


@dataclass(frozen=True)
class Dora(Lora):
    """Weight-decomposed adaptation: m (W + s B A) / |W + s B A| in place of W; Liu et al. 2024, arXiv 2402.09353.

    |.| is the norm of each row, which belongs to one output. m is trained too, and begins as |W|, so training begins
    with exactly the base model. It is stored in units of |W|: `magnitude` begins as ones, in every precision. As in
    section 4.3 of the paper, no gradient passes through the norm of the sum. Each of query, key and value has its own
    factors and magnitudes. s = alpha / rank and the factors are those of `lora`.

    Attributes:
        rank: r, the inner width of the factors.
        alpha: the product of the factors is multiplied by alpha / rank.
        dropout: dropout rate of the input of the factors. In PEFT it also acts on the input of
            (m / |W + s B A| - 1) W.
        targets: the matrices that are adapted: query, key, value, attention_output, intermediate, output.
    """

    def merged(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors with m (W + s B A) / |W + s B A| in place of each W, and without what was added."""
        return merge_layers(tensors, self.changes(), (A, B, MAGNITUDE))

    def _change(self, layer: str) -> "Decomposed":
        return Decomposed(*self._adapted(layer), self.rank, self.alpha / self.rank, self.dropout)


@dataclass(frozen=True)
class Decomposed(LowRank):
    """The addition of low-rank factors to a matrix, each row of which then gets its trained length."""

    def new_parameters(self, base: nn.Linear) -> dict[str, Tensor]:
        num_rows = base.out_features // self.num_stacked * self.num_adapted
        return {**super().new_parameters(base), MAGNITUDE: base.weight.new_ones(num_rows)}

    def slices(self, dimension: int) -> Mapping[str, tuple[int, int]]:
        rows = {MAGNITUDE: (0, self.num_adapted)} if dimension == 0 else {}
        return {**super().slices(dimension), **rows}

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
        base = F.linear(hidden, weight, bias)
        product = base if bias is None else base - bias.to(base.dtype)
        ratio = self.spread(added[MAGNITUDE] * self._shrinkage(weight, added, total), 1.0)
        # Both addends are 0 at the start, so the base's outputs stay as they are.
        addition = self.addition(hidden, added, training=training)
        return base + (ratio - 1).to(base.dtype) * product + ratio.to(base.dtype) * addition

    def merged(self, weight: Tensor, bias: Tensor, added: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        rows = self.rows_of(weight.double())
        changed = rows + self.rows_of(self.product(added))
        ratio = _ratio(_squares_in_order(rows), _squares_in_order(changed))
        ratio *= added[MAGNITUDE].double().unflatten(0, (self.num_adapted, -1))
        merged = weight.clone().unflatten(0, (self.num_stacked, -1))
        merged[list(self.adapted)] = (changed * ratio[..., None]).to(weight.dtype)
        return merged.flatten(0, 1), bias

    def lengths(self, weight: Tensor, added: Mapping[str, Tensor]) -> Tensor:
        """Return (p O / n,) the magnitudes m themselves, in float64."""
        norms = _squares_in_order(self.rows_of(weight.double())).sqrt()
        return norms.flatten() * added[MAGNITUDE].double()

    @torch.no_grad()
    def _shrinkage(self, weight: Tensor, added: Mapping[str, Tensor], total: Callable[[Tensor], Tensor]) -> Tensor:
        """Return (p O / n,) |W| / |W + s B A|, row by row, exactly 1 if B is 0."""
        kind = torch.promote_types(weight.dtype, torch.float32)
        rows, a, b = self.rows_of(weight.to(kind)), added[A].to(kind), added[B].to(kind)
        with without_autocast(weight):
            factors = a.unflatten(0, (self.num_adapted, self.rank))
            product = b.unflatten(0, (self.num_adapted, -1)) @ factors
            both = torch.stack([rows, rows + self.scaling * product])
            squares = total(both.square().sum(-1))
        return _ratio(squares[0], squares[1]).flatten()


def _ratio(before: Tensor, after: Tensor) -> Tensor:
    """Return the ratio of two lengths from their squares; 1 for a row of zeros, which has no direction."""
    return torch.where(after == 0, torch.ones_like(after), (before / after).sqrt())


def _squares_in_order(rows: Tensor) -> Tensor:
    """Return the sum of squares over the last dimension, added one by one: every machine gets the same bits."""
    squares = rows.new_zeros(rows.shape[:-1])
    for column in rows.unbind(-1):
        squares += column * column
    return squares
