"""The base of all tunings, and the tuning that trains everything."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

if TYPE_CHECKING:
    from bert_lightning.model.encoder import BertEncoder


class Tuning:
    """Base of all tunings, which are frozen dataclasses: their fields are the keys under `tuning`.

    The head always trains, whatever the tuning is. So do parameters that the base does not have.

    Attributes:
        mergeable: whether `merged` gives a plain BERT. If not, the model keeps what was added wherever it is loaded.
        begins_as_base: whether the encoder computes the same before and after `apply`.
        default_learning_rate: the rate of AdamW in an experiment that sets none; None for that of the optimiser.
        default_epochs: the length of an experiment that sets none; None if it must be set.
    """

    mergeable: ClassVar[bool] = True
    begins_as_base: ClassVar[bool] = True
    default_learning_rate: ClassVar[float | None] = None
    default_epochs: ClassVar[float | None] = None

    def apply(self, encoder: "BertEncoder") -> None:
        """Add parameters to a frozen encoder, or let some of its parameters train, in place.

        Random values come from torch's generator, which is seeded.

        Raises:
            ValueError: the encoder lacks what the settings name; the message begins with the name of the field.
        """
        raise NotImplementedError

    def merged(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights of a plain model that computes the same: no added parameters, the names of the base.

        The tensors that are passed in stay unchanged. It is not called if the tuning is not `mergeable`.
        """
        return tensors


@dataclass(frozen=True)
class Full(Tuning):
    """Every parameter trains, unless `freeze` excludes it. The default, as published for BERT."""

    def apply(self, encoder: "BertEncoder") -> None:
        encoder.requires_grad_(True)
