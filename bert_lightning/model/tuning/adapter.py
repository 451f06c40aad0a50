"""Adapters: small trained networks inside the blocks, which stay frozen."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from bert_lightning.checks import require_at_least
from bert_lightning.model.tuning.layer_norm import train_norms
from bert_lightning.model.tuning.tuning import Tuning

if TYPE_CHECKING:
    from bert_lightning.model.encoder import BertEncoder

_DEVIATION = 1e-2
_REDUCTION = 16


@dataclass(frozen=True)
class Adapter(Tuning):
    """Bottleneck networks whose output is added to that of the sublayers of each block.

    `houlsby`: one after attention and one after the feed-forward network, both before the residual sum, with GELU;
    LayerNorm trains too (Houlsby et al. 2019, arXiv 1902.00751, section 2.1). `pfeiffer`: one after the feed-forward
    network, with ReLU. It reads LayerNorm of the residual sum, and its output is added before that LayerNorm
    (Pfeiffer et al. 2021, arXiv 2005.00247; the configuration of that name in AdapterHub).

    The down-projections are initialised from a normal distribution with standard deviation 1e-2, truncated at two
    deviations, as in Houlsby et al. (1e-3 in the authors' code). There the up-projections are initialised in the same
    way. Here they begin as zeros, so that training begins with exactly the base model.

    Adapters are not linear, so they cannot be merged into the weights.

    Attributes:
        placement: pfeiffer or houlsby.
        size: width of the bottleneck; by default the hidden size divided by `reduction`.
        reduction: hidden size divided by the width, 16 if neither is set. The width is rounded down.
        layer_norm: whether LayerNorm trains too; null for the published choice, which is with houlsby only.
    """

    placement: Literal["pfeiffer", "houlsby"] = "pfeiffer"
    size: int | None = None
    reduction: int | None = None
    layer_norm: bool | None = None

    mergeable: ClassVar[bool] = False
    # Mao et al. 2022 (UniPELT, arXiv 2110.07577), section 4.1, for pfeiffer and a width of 48.
    default_learning_rate: ClassVar[float | None] = 1e-4
    default_epochs: ClassVar[float | None] = 50

    def __post_init__(self) -> None:
        require_at_least(self, 1, "size", "reduction")
        if self.size is not None and self.reduction is not None:
            raise ValueError("size or tuning.reduction may be set, and not both")

    def apply(self, encoder: "BertEncoder") -> None:
        hidden, is_houlsby = encoder.config.hidden_size, self.placement == "houlsby"
        size = self.size if self.size is not None else hidden // (self.reduction or _REDUCTION)
        if size < 1:
            raise ValueError(f"reduction is {self.reduction or _REDUCTION}, more than the hidden size ({hidden})")
        if not is_houlsby and encoder.config.norm_placement != "post":
            raise ValueError(
                "placement is pfeiffer, which reads the LayerNorm after a residual sum, but norm_placement is "
                f"{encoder.config.norm_placement}: use houlsby"
            )
        like, network = encoder.embeddings.word.weight, HoulsbyAdapter if is_houlsby else PfeifferAdapter
        for block in encoder.layers:
            if is_houlsby:
                block.attention_adapter = network(hidden, size).to(like)
            block.output_adapter = network(hidden, size).to(like)
        if is_houlsby if self.layer_norm is None else self.layer_norm:
            train_norms(encoder)


class HoulsbyAdapter(nn.Module):
    """Bottleneck after a sublayer: h + W_up gelu(W_down h + b_down) + b_up for its outputs h (..., H)."""

    def __init__(self, hidden_size: int, size: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(hidden_size, size), nn.Linear(size, hidden_size)
        nn.init.trunc_normal_(self.down.weight, std=_DEVIATION, a=-2 * _DEVIATION, b=2 * _DEVIATION)
        for zeros in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zeros)

    def forward(self, outputs: Tensor, inputs: Tensor, norm: nn.Module) -> Tensor:
        """Adapt the outputs (..., H) of a sublayer with the inputs (..., H), which the block's norm follows."""
        adapted: Tensor = outputs + self.up(F.gelu(self.down(outputs)))
        return adapted


class PfeifferAdapter(HoulsbyAdapter):
    """Bottleneck that reads LayerNorm of the residual sum: h + W_up relu(W_down LN(x + h) + b_down) + b_up."""

    def forward(self, outputs: Tensor, inputs: Tensor, norm: nn.Module) -> Tensor:
        """Adapt the outputs h of a sublayer with the inputs x, both (..., H)."""
        adapted: Tensor = outputs + self.up(F.relu(self.down(norm(inputs + outputs))))
        return adapted
