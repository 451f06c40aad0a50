"""Penalties: terms of the objective that depend on the weights alone."""

from typing import Protocol

from torch import Tensor


class Penalty(Protocol):
    """A term of the objective that belongs to no batch, such as a pull towards earlier weights."""

    def add_gradients(self) -> None:
        """Add its gradient to those of the parameters, in every process for the slices that it holds.

        A step calls it once, after the last micro-batch and before the norm of the gradients is taken.
        """

    def value(self) -> Tensor:
        """Return its value, (), for the present weights; called by all processes."""
