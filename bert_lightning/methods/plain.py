"""The choice of the step method, which turns losses into gradients."""

from dataclasses import dataclass
from typing import Protocol

from bert_lightning.tasks.step_method import CountedLosses, PlainStep, StepMethod


class StepMethodSettings(Protocol):
    """Settings of a step method. `step_method.class_path` can name a dataclass that has the method `build`."""

    def build(self, losses: CountedLosses) -> StepMethod:
        """Build the method.

        Args:
            losses: the losses of the task, or those of the task and of distillation.
        """


@dataclass(frozen=True)
class Plain:
    """One forward and one backward pass per micro-batch."""

    def build(self, losses: CountedLosses) -> StepMethod:
        """Build the method."""
        return PlainStep(losses)


STEP_METHODS: dict[str, type] = {"plain": Plain}
"""Value of `step_method.name` -> its settings."""
