"""BitFit: only the biases train."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bert_lightning.model.tuning.tuning import Tuning

if TYPE_CHECKING:
    from bert_lightning.model.encoder import BertEncoder


@dataclass(frozen=True)
class BitFit(Tuning):
    """Training of the biases of the encoder, and of the head, alone; Ben Zaken et al. 2022, arXiv 2106.10199.

    These are the biases of all linear layers and of LayerNorm, also in embeddings and pooler: 102,912 parameters of
    BERT-base, 272,384 of BERT-large. The bias of the keys has no effect, because the softmax does not see a constant
    that all scores of a query share. Its gradient is 0 except for rounding.

    Published: learning rate 1e-3 (between 1e-4 and 1e-2), batches of 8 or 16, 16 epochs.
    """

    # The authors' `run_glue.py` and its README.
    default_learning_rate: ClassVar[float | None] = 1e-3
    default_epochs: ClassVar[float | None] = 16

    def apply(self, encoder: "BertEncoder") -> None:
        for name, parameter in encoder.named_parameters():
            if name.endswith(".bias"):
                parameter.requires_grad_(True)
