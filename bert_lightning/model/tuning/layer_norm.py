"""Training of the LayerNorms alone."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import nn

from bert_lightning.model.tuning.tuning import Tuning

if TYPE_CHECKING:
    from bert_lightning.model.encoder import BertEncoder


@dataclass(frozen=True)
class LayerNormOnly(Tuning):
    """Training of the weights and biases of all LayerNorms of the encoder, and of the head, alone.

    These are 38,400 parameters of BERT-base. Houlsby et al. 2019 (arXiv 1902.00751) compare adapters with it.
    """

    # No source gives figures for BERT; these are those of BitFit, which trains the biases among these parameters.
    default_learning_rate: ClassVar[float | None] = 1e-3
    default_epochs: ClassVar[float | None] = 16

    def apply(self, encoder: "BertEncoder") -> None:
        if not train_norms(encoder):
            raise ValueError("name is layer-norm, but the encoder has no LayerNorm")


def train_norms(module: nn.Module) -> bool:
    """Let the LayerNorms in a module train; return whether there are any."""
    norms = [each for each in module.modules() if isinstance(each, nn.LayerNorm | nn.RMSNorm)]
    for norm in norms:
        norm.requires_grad_(True)
    return bool(norms)
