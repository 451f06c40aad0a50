"""L2-SP: weight decay towards the weights that training started from."""

from dataclasses import dataclass
from typing import ClassVar

from bert_lightning.checks import require_at_least
from bert_lightning.methods.continual.method import ContinualMethod, Start
from bert_lightning.methods.continual.penalty import Anchor, QuadraticPenalty
from bert_lightning.model.pretrained import PretrainedModel
from bert_lightning.tasks.penalty import Penalty


@dataclass(frozen=True)
class L2SP(ContinualMethod):
    """L2-SP: Li, Grandvalet and Davoine 2018, arXiv 1802.01483, equation 4.

    The loss gets `alpha` / 2 |w - w0|^2 for the parameters that the checkpoint gave, with its values w0, and
    `beta` / 2 |w|^2 for all others, such as a new head. Parameters that a tuning adds to the encoder without changing
    what it computes, such as the scales of IA3, are drawn with `alpha` to the values that they begin with. L2-SP
    replaces `optimizer.weight_decay`, which should then be 0. It works in any fine-tuning, also without a
    `sequence`.

    Attributes:
        alpha: strength of the pull towards the checkpoint.
        beta: strength of the pull of new parameters towards 0.
    """

    alpha: float = 0.1
    beta: float = 0.01
    needs_sequence: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require_at_least(self, 0, "alpha", "beta")

    def penalty(self, start: Start) -> Penalty | None:
        """Return the penalty, unless both strengths are 0: then training is plain, bit for bit.

        Raises:
            ValueError: there is no checkpoint to pull the weights to. The first task of a sequence needs none.
        """
        if self.alpha and not start.tensors and not start.in_sequence:
            raise ValueError(
                "alpha pulls the weights to those of a checkpoint, but they begin with random values: name a "
                "checkpoint in model.pretrained, without model.weights random, or set continual.alpha to 0"
            )
        anchors = {}
        added = _added_by_tuning(start)
        for name, parameter in start.model.named_parameters():
            if not parameter.requires_grad:
                continue
            values = parameter.detach()
            known = start.gave(name, values) or name in added
            strength = self.alpha if known else self.beta
            if strength:
                anchors[name] = Anchor(values.clone() if known else None, strength)
        return QuadraticPenalty(start.model, anchors) if anchors else None


def _added_by_tuning(start: Start) -> frozenset[str]:
    """Return the names of the parameters of a tuning whose first values leave the encoder as it is."""
    model = start.model
    if not isinstance(model, PretrainedModel) or not model.tuning.begins_as_base:
        return frozenset()
    return model.added_parameters
