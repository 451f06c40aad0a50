"""Freezing of layers, for the whole training or until a given step."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from bert_lightning.checks import require_at_least


@dataclass(frozen=True)
class FreezeSettings:
    """Layers of the encoder that do not train.

    A permanently frozen layer gets no gradients, and its dropout is off. It is a fixed function, as in the
    feature-based approach of the paper (section 5.3). Dropout there would be noise that the layer cannot adapt to.
    A layer that is unfrozen later keeps its dropout, because the layers above must learn to work with it.

    Attributes:
        embeddings: freeze the embeddings.
        layers: freeze this many blocks, counted from the bottom; the embeddings are not among them.
        encoder: freeze all but the head: embeddings, blocks and pooler.
        unfreeze_every: gradual unfreezing (Howard and Ruder 2018, arXiv 1801.06146, section 3.3), counted in steps
            instead of epochs. Only the head trains at first. Every this many steps one more layer is unfrozen, from
            the top down: first the top block with the pooler, last the embeddings.
    """

    embeddings: bool = False
    layers: int = 0
    encoder: bool = False
    unfreeze_every: int | None = None

    def __post_init__(self) -> None:
        require_at_least(self, 0, "layers")
        require_at_least(self, 1, "unfreeze_every")
        for name in ("embeddings", "layers"):
            if self.encoder and getattr(self, name):
                raise ValueError(f"{name} does nothing together with freeze.encoder, which freezes all layers")
        if self.encoder and self.unfreeze_every is not None:
            raise ValueError("unfreeze_every contradicts freeze.encoder, which never unfreezes a layer")


def release_steps(module: nn.Module, depths: Mapping[str, int], every: int) -> dict[str, int]:
    """Return the first step at which each trainable parameter is updated, by name.

    Depths without trainable parameters are skipped. If the lower blocks are permanently frozen, the embeddings follow
    right after the lowest block that trains.

    >>> module = nn.ModuleDict({"encoder": nn.Linear(1, 1, bias=False), "head": nn.Linear(1, 1, bias=False)})
    >>> release_steps(module, {"encoder.weight": 0, "head.weight": 3}, every=100)
    {'encoder.weight': 100, 'head.weight': 0}
    """
    names = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
    order = sorted({depths[name] for name in names}, reverse=True)
    return {name: every * order.index(depths[name]) for name in names}


def drop_gradients(module: nn.Module, releases: Mapping[str, int], step: int) -> None:
    """Remove the gradients of parameters that are still frozen, so that norm, moments and weight decay ignore them.

    The step alone thus decides whether a parameter is frozen. `requires_grad` stays unchanged: a resumed run would
    have to set it again, and DDP reads it only once.
    """
    for name, parameter in module.named_parameters():
        if step < releases.get(name, 0):
            parameter.grad = None
