"""The base of all adversaries. An adversary holds settings, adds losses or wraps a step method, and counts passes."""

from dataclasses import dataclass
from typing import NamedTuple

from bert_lightning.errors import InputError
from bert_lightning.tasks.distributions import described
from bert_lightning.tasks.step_method import CountedLosses, StepMethod
from bert_lightning.tasks.task import Task


class Passes(NamedTuple):
    """The number of passes over each micro-batch, which is the cost of a method. Plain training takes one of each."""

    forward: int
    backward: int


class Adversary:
    """Settings of adversarial training, and plain training by default.

    A method of perturbations that raise the loss wraps the step method. A method that compares predictions adds
    losses. `adversarial.class_path` can name a dataclass with `wrap`; it need not be a subclass.
    """

    @property
    def passes(self) -> Passes:
        """The number of passes over a micro-batch."""
        return Passes(1, 1)

    def add_losses(self, losses: CountedLosses, task: Task) -> CountedLosses:
        """Return losses, to which the step method is applied: by default the given ones.

        Args:
            losses: those of the task, or those of the task and of distillation.
            task: holds the model, whose predictions may be compared.

        Raises:
            InputError: the task has nothing that can be compared.
        """
        return losses

    def wrap(self, method: StepMethod, task: Task) -> StepMethod:
        """Return a step method that trains against perturbations: by default the given one.

        Args:
            method: the step method without perturbations.
            task: holds the model whose embeddings are perturbed.
        """
        return method


@dataclass(frozen=True)
class NoAdversary(Adversary):
    """Training without perturbations."""


def require_distributions(task: Task, name: str) -> None:
    """Check that a task has predictions to compare.

    Args:
        task: the task.
        name: value of `adversarial.name`.

    Raises:
        InputError: it has none.
    """
    if not task.distribution_names:
        raise InputError(
            f"adversarial.name {name} compares predictions, but {described(task)} has none that can be compared: "
            "choose fgm, pgd or freelb, which need no predictions"
        )
