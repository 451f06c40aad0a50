"""The table of all adversaries, and what a training with one costs."""

from bert_lightning.checks import name_in
from bert_lightning.methods.adversarial.adversary import Adversary, NoAdversary, Passes
from bert_lightning.methods.adversarial.fast_gradient import FastGradient
from bert_lightning.methods.adversarial.free_lb import FreeLB
from bert_lightning.methods.adversarial.projected_gradient import ProjectedGradient
from bert_lightning.methods.adversarial.r_drop import RDrop
from bert_lightning.methods.adversarial.smart import Smart

ADVERSARIES: dict[str, type] = {
    "none": NoAdversary,
    "fgm": FastGradient,
    "pgd": ProjectedGradient,
    "freelb": FreeLB,
    "smart": Smart,
    "r-drop": RDrop,
}
"""Value of `adversarial.name` -> its settings."""


def cost_of(adversary: object) -> list[str]:
    """Return a note about the passes that an adversary takes; none for plain training, or if it does not say.

    >>> cost_of(FastGradient())
    ['adversarial.name fgm takes 2 forward and 2 backward passes over each micro-batch, instead of one of each']
    """
    if not isinstance(adversary, Adversary) or adversary.passes == Passes(1, 1):
        return []
    name = name_in(ADVERSARIES, type(adversary))
    forward, backward = adversary.passes
    return [
        f"adversarial.name {name} takes {forward} forward and {backward} backward passes over each micro-batch, "
        "instead of one of each"
    ]
