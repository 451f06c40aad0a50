"""Training of the top blocks and the pooler alone."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bert_lightning.checks import require_at_least
from bert_lightning.model.tuning.tuning import Tuning

if TYPE_CHECKING:
    from bert_lightning.model.encoder import BertEncoder


@dataclass(frozen=True)
class TopLayers(Tuning):
    """Training of the top blocks, of a LayerNorm after them, of the pooler and of the head.

    A usual baseline of tunings, as in Houlsby et al. 2019 (arXiv 1902.00751). It needs the learning rates of full
    fine-tuning. With `freeze.layers` instead, the dropout of frozen blocks is off, and checkpoints contain these
    blocks.

    Attributes:
        layers: how many blocks train, counted from the top.
    """

    layers: int = 1

    def __post_init__(self) -> None:
        require_at_least(self, 1, "layers")

    def apply(self, encoder: "BertEncoder") -> None:
        num_layers = len(encoder.layers)
        if self.layers > num_layers:
            raise ValueError(f"layers is {self.layers}, but the model has {num_layers}")
        for module in (*encoder.layers[num_layers - self.layers :], encoder.final_norm, encoder.pooler):
            if module is not None:
                module.requires_grad_(True)
