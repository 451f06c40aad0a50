"""The base of all methods of continual learning, and the method that does nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from bert_lightning.tasks.penalty import Penalty
from bert_lightning.tasks.step_method import CountedLosses
from bert_lightning.tasks.task import Task


@dataclass(frozen=True)
class Start:
    """The model, checkpoint and stored information with which a training begins.

    Attributes:
        model: the model, filled with its first weights.
        prefix: stands before the names of its parameters in a checkpoint.
        tensors: the checkpoint that it starts from, under the names of a checkpoint; empty if there is none.
        information: what `ContinualMethod.saved` kept at the end of the run before; None without one.
    """

    model: nn.Module
    prefix: str
    tensors: Mapping[str, Tensor]
    information: Mapping[str, Tensor] | None = None


class ContinualMethod:
    """Base of all methods, which are frozen dataclasses: their fields are the keys under `continual`."""

    needs_sequence: ClassVar[bool] = True
    """Whether it does nothing without the key `sequence`."""
    saves_information: ClassVar[bool] = False
    """Whether the run keeps something of its weights for the run of the next task (`information.safetensors`)."""
    remembers: ClassVar[bool] = False
    """Whether the model of the run before computes in each step."""

    def check_size(self, num_examples: Sequence[int]) -> None:
        """Check the settings against the number of training examples of each task.

        Raises:
            ValueError: they do not fit. The message begins with the name of the field.
        """

    def replayed(self, num_examples: Sequence[int], names: Sequence[str], seed: int, num_own: int) -> list[list[int]]:
        """Return the numbers of the training examples of each earlier task to train on; none by default.

        Args:
            num_examples: number of training examples of each earlier task.
            names: their names.
            seed: seed of the run.
            num_own: number of training examples of this task.
        """
        return [[] for _ in names]

    def penalty(self, start: Start) -> Penalty | None:
        """Return what a step adds to the gradients of the whole batch; None by default."""
        return None

    def losses(self, task: Task, previous: Task, groups: Sequence[Sequence[int]] | None) -> CountedLosses:
        """Return the losses of a task and further ones on what the model before predicts.

        Args:
            task: the task that is trained.
            previous: a task with the model of the run before.
            groups: the numbers of the labels of each earlier task; None if all outputs belong to earlier tasks.
        """
        return task


@dataclass(frozen=True)
class NoContinual(ContinualMethod):
    """Plain fine-tuning on one task after the other."""

    needs_sequence: ClassVar[bool] = False
