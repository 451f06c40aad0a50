"""The base of all tunings, and the tuning that trains everything."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from bert_lightning.model.encoder import BertEncoder


class Tuning:
    """Base of all tunings, which are frozen dataclasses: their fields are the keys under `tuning`.

    The head is not a tuning's concern: it always trains, and so do parameters that the base does not have.
    """

    def apply(self, encoder: "BertEncoder") -> None:
        """Add parameters to the blocks of a frozen encoder, or let some of its parameters train, in place.

        The encoder must compute the same as before. Random values come from torch's generator, which is seeded.

        Raises:
            ValueError: the encoder lacks what the settings name; the message begins with the name of the field.
        """
        raise NotImplementedError

    def merged(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights of a plain model that computes the same: no added parameters, the names of the base.

        The tensors that are passed in stay unchanged.
        """
        return tensors


@dataclass(frozen=True)
class Full(Tuning):
    """Every parameter trains, unless `freeze` excludes it. The default, as published for BERT."""

    def apply(self, encoder: "BertEncoder") -> None:
        encoder.requires_grad_(True)
