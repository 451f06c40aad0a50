"""The base of all methods of continual learning, and the method that does nothing."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from bert_lightning.data.loading.batching import Batch
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
        information: what `ContinualMethod.information` returned at the end of the previous run; None without one.
        in_sequence: whether the training is one of a sequence of tasks.
    """

    model: nn.Module
    prefix: str
    tensors: Mapping[str, Tensor]
    information: Mapping[str, Tensor] | None = None
    in_sequence: bool = False

    def gave(self, name: str, values: Tensor) -> bool:
        """Return whether a parameter of the model has the values of the checkpoint."""
        given = self.tensors.get(self.prefix + name)
        return given is not None and given.shape == values.shape and torch.equal(given.to(values.dtype), values)


@dataclass(frozen=True)
class End:
    """The model and data with which a training ends.

    Attributes:
        task: holds the whole model in float32. The parameters that trained require gradients.
        samples: function from a number to that many training samples, each as a batch on the device of the task;
            None gives all. They are the same whenever the run ends.
        seed: seed of the run.
        before: what the run of the previous task kept; None for the first task.
    """

    task: Task
    samples: Callable[[int | None], Iterator[Batch]]
    seed: int
    before: Mapping[str, Tensor] | None = None


class ContinualMethod:
    """Base of all methods, which are frozen dataclasses: their fields are the keys under `continual`.

    A method overrides what it needs of `replayed`, `penalty`, `losses` and `information`; by default they do nothing.
    """

    needs_sequence: ClassVar[bool] = True
    """Whether it does nothing without the key `sequence`."""

    @property
    def replays(self) -> bool:
        """Whether it needs to know the examples of earlier tasks."""
        return self._overrides("replayed") or self._overrides("check_size")

    @property
    def remembers(self) -> bool:
        """Whether each step also computes the predictions of the previous run's model."""
        return self._overrides("losses")

    @property
    def keeps_information(self) -> bool:
        """Whether a run keeps something for the run of the next task (`information.safetensors`)."""
        return self._overrides("information")

    def _overrides(self, name: str) -> bool:
        return getattr(type(self), name) is not getattr(ContinualMethod, name)

    def check_task(self, task: Task) -> None:
        """Check that the method is defined for a task.

        Raises:
            ValueError: it is not. The message begins with the name of the field, or with `name`.
        """

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
        """Return the losses of a task, and further ones on the predictions of the previous model.

        Args:
            task: the task that is trained.
            previous: a task with the model of the previous run.
            groups: the numbers of the labels of each earlier task; None if all outputs belong to earlier tasks.
        """
        return task

    def information(self, end: End) -> Mapping[str, Tensor]:
        """Return what the run of the next task needs to know; nothing by default."""
        return {}


@dataclass(frozen=True)
class NoContinual(ContinualMethod):
    """Plain fine-tuning on one task after the other."""

    needs_sequence: ClassVar[bool] = False
