"""IA3: trained vectors scale keys, values and the inner activations of the feed-forward network."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from bert_lightning.model.tuning.changed_linear import STACKED, Change, change_layers, merge_layers
from bert_lightning.model.tuning.tuning import Tuning

if TYPE_CHECKING:
    from bert_lightning.model.encoder import BertEncoder

SCALE = "ia3_scale"


@dataclass(frozen=True)
class Ia3(Tuning):
    """Infused adapter by inhibiting and amplifying inner activations; Liu et al. 2022, arXiv 2205.05638, section 3.3.

    Three vectors in each block multiply the keys, the values, and the activations between the two matrices of the
    feed-forward network. They begin as ones, so training begins with exactly the base model. BERT-base has 55,296 of
    these parameters.

    Published: learning rate 3e-3 with Adafactor, batches of 8, 1,000 steps, for T0. There is no figure for BERT.
    """

    # The rate of the paper (section 3.4). It gives no epochs; these are those of BitFit.
    default_learning_rate: ClassVar[float | None] = 3e-3
    default_epochs: ClassVar[float | None] = 16

    def apply(self, encoder: "BertEncoder") -> None:
        change_layers(encoder, self.changes(), "name is ia3")

    def merged(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors with scaled rows of key and value, and scaled columns of the output matrix."""
        return merge_layers(tensors, self.changes(), (SCALE,))

    def changes(self) -> dict[str, Change]:
        """Return what changes in the layers of a block, by the name of the layer."""
        matrices = STACKED["query_key_value"]
        adapted = tuple(matrices.index(name) for name in ("key", "value"))
        return {"query_key_value": ScaledOutputs(len(matrices), adapted), "output": ScaledInputs(1, (0,))}


class ScaledOutputs(Change):
    """Factors (p O / n,) on the outputs of the adapted matrices."""

    def new_parameters(self, base: nn.Linear) -> dict[str, Tensor]:
        return {SCALE: base.weight.new_ones(base.out_features // self.num_stacked * self.num_adapted)}

    def slices(self, dimension: int) -> Mapping[str, tuple[int, int]]:
        return {SCALE: (0, self.num_adapted)} if dimension == 0 else {}

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
        outputs = F.linear(hidden, weight, bias)
        return outputs * self.spread(added[SCALE], 1.0).to(outputs.dtype)

    def merged(self, weight: Tensor, bias: Tensor, added: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        scale = self.spread(added[SCALE], 1.0)
        return weight * scale[:, None], bias * scale


class ScaledInputs(Change):
    """Factors (I,) on the inputs of a layer."""

    def new_parameters(self, base: nn.Linear) -> dict[str, Tensor]:
        return {SCALE: base.weight.new_ones(base.in_features)}

    def slices(self, dimension: int) -> Mapping[str, tuple[int, int]]:
        return {SCALE: (0, 1)} if dimension == 1 else {}

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
        return F.linear(hidden * added[SCALE].to(hidden.dtype), weight, bias)

    def merged(self, weight: Tensor, bias: Tensor, added: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        return weight * added[SCALE], bias
