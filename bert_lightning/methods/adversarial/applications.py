"""Backward passes of a step method that is applied several times to a micro-batch, with the same dropout masks."""

from collections.abc import Callable

import torch
from torch import Tensor

from bert_lightning.tasks.step_method import BackwardPass

Placed = Callable[[Tensor], Tensor]
"""Function from the (L,) losses of one application to its part of the losses of the whole step."""

OPERATIONS_OF_ASCENT = 2 / 3
"""A pass that computes only the gradient of its input takes this share of the operations of a whole pass."""


def repeat_dropout() -> None:
    """Reset the random numbers, so that the next pass draws the same dropout masks as the first one.

    Zhu et al. 2020 (arXiv 1909.11764), section 3.3: all ascents of a step need one mask. `tasks/step.py` seeds
    torch's generator at the beginning of each micro-batch.
    """
    torch.manual_seed(torch.initial_seed())


class OneOfSeveral:
    """The backward pass of one application among several.

    Args:
        backward: that of the micro-batch.
        placed: turns the (L,) losses of this application into its part of the losses of the whole step.
        ends: whether this is the last application.
    """

    def __init__(self, backward: BackwardPass, placed: Placed, *, ends: bool) -> None:
        self._backward = backward
        self._placed = placed
        self._ends = ends

    def __call__(self, losses: Tensor, *, is_last: bool = True) -> None:
        """Add the gradients of the losses."""
        self._backward(self._placed(losses), is_last=is_last and self._ends)

    def gradient(self, losses: Tensor, of: Tensor) -> Tensor:
        """Return the gradient of the losses with respect to a tensor."""
        return self._backward.gradient(self._placed(losses), of)


class Ascent:
    """A backward pass that collects the gradient of a perturbation, and gives the parameters no gradients.

    Args:
        backward: that of the micro-batch.
        placed: turns the (L,) losses of this application into its part of the losses of the whole step.
        perturbation: the perturbation, which requires gradients.

    Attributes:
        perturbation: the perturbation.
        found: the gradient of the perturbation, in the same shape.
    """

    def __init__(self, backward: BackwardPass, placed: Placed, perturbation: Tensor) -> None:
        self._backward = backward
        self._placed = placed
        self.perturbation = perturbation
        self.found = torch.zeros_like(perturbation, requires_grad=False)

    def __call__(self, losses: Tensor, *, is_last: bool = True) -> None:
        """Add the gradient of the losses with respect to the perturbation."""
        self.found += self.gradient(losses, self.perturbation)

    def gradient(self, losses: Tensor, of: Tensor) -> Tensor:
        """Return the gradient of the losses with respect to a tensor."""
        return self._backward.gradient(self._placed(losses), of)
