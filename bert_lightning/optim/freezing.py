"""What stays as it is while the rest trains: for good, or until its turn comes."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from bert_lightning.checks import RefusedValue


@dataclass(frozen=True)
class FreezeSettings:
    """Parts of the encoder that do not train.

    A part that is frozen for good gets no gradients, and its dropout is off: it is one fixed function, as in the
    feature-based approach of the paper (section 5.3), and dropout in it would be noise that it cannot adapt to. A
    part that waits for its turn keeps its dropout, which what trains on top will meet later too.

    Attributes:
        embeddings: freeze them.
        layers: freeze so many blocks, counted from the embeddings, which are not among them.
        encoder: freeze all but the head: embeddings, blocks and pooler.
        unfreeze_every: gradual unfreezing; Howard and Ruder 2018 (arXiv 1801.06146), section 3.3, in steps in place
            of epochs. Only the head trains at first, and every so many steps one more layer from the top is let go:
            the top block with the pooler, ..., the embeddings last.
    """

    embeddings: bool = False
    layers: int = 0
    encoder: bool = False
    unfreeze_every: int | None = None

    def __post_init__(self) -> None:
        if self.layers < 0:
            raise RefusedValue("layers", self.layers, "be at least 0")
        if self.unfreeze_every is not None and self.unfreeze_every < 1:
            raise RefusedValue("unfreeze_every", self.unfreeze_every, "be at least 1")
        for name in ("embeddings", "layers"):
            if self.encoder and getattr(self, name):
                raise ValueError(f"{name} does nothing beside freeze.encoder, which freezes them all")
        if self.encoder and self.unfreeze_every is not None:
            raise ValueError("unfreeze_every contradicts freeze.encoder, which never lets go")


def release_steps(module: nn.Module, depths: Mapping[str, int], every: int) -> dict[str, int]:
    """The first step at which each trainable parameter moves, by name.

    Depths that hold nothing trainable are passed over: where blocks are frozen for good, the embeddings follow the
    lowest that is not.
    """
    names = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
    order = sorted({depths[name] for name in names}, reverse=True)
    return {name: every * order.index(depths[name]) for name in names}


def drop_gradients(module: nn.Module, releases: Mapping[str, int], step: int) -> None:
    """Forget the gradients of what does not move yet, so that neither norm, moments nor weight decay see it.

    Whether a parameter moves is thus a function of the step alone. `requires_grad`, which a resumed run would have to
    set again and which DDP reads only once, stays as it is.
    """
    for name, parameter in module.named_parameters():
        if step < releases.get(name, 0):
            parameter.grad = None
