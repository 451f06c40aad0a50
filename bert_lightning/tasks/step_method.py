"""Step methods: how one micro-batch becomes gradients of counted losses."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor

from bert_lightning.data.loading.batching import Batch
from bert_lightning.tasks.distributions import Distribution


class TrainingSums(Protocol):
    """The names and divisors of training sums: losses first, then other sums such as right predictions."""

    @property
    def loss_names(self) -> Sequence[str]:
        """(K,) names of the training sums. Training logs their means as `train/NAME`."""

    @property
    def num_losses(self) -> int:
        """How many of the training sums are losses."""

    @property
    def loss_factors(self) -> Sequence[float]:
        """(L,) the factor on each loss in the gradient."""

    def counts(self, batch: Batch) -> Tensor:
        """Return (K,) the divisor of each training sum, known before the forward pass."""

    def operations(self, batch: Batch, num_passes: float = 1) -> float:
        """Return the floating-point operations of `num_passes` forward and backward passes over a micro-batch.

        A forward pass alone is a third of one.
        """


class CountedLosses(TrainingSums, Protocol):
    """Training losses, each a sum over counted items, from one forward pass. Every `Task` is one."""

    def sums(self, batch: Batch) -> Tensor:
        """Return (K,) each training sum; the losses among them carry gradients."""

    def sums_and_distributions(self, batch: Batch) -> tuple[Tensor, list[Distribution]]:
        """Return the sums, and what the task's model predicts in the same forward pass."""


class BackwardPass(Protocol):
    """The backward pass of one micro-batch; `Backward` of `tasks/step.py` is the one of training."""

    def __call__(self, losses: Tensor, *, is_last: bool = True) -> None:
        """Add the gradients of (L,) summed losses, each divided by its count over the whole batch.

        Every pass of a micro-batch except the last one needs `is_last=False`.
        """

    def gradient(self, losses: Tensor, of: Tensor) -> Tensor:
        """Return the gradient of (L,) summed losses, divided as in a pass, with respect to a tensor.

        Parameters get no gradients, and processes exchange none. This call does not count as a pass: a last backward
        pass must still follow.
        """


class StepMethod(TrainingSums, Protocol):
    """A way to turn one micro-batch into gradients of counted losses."""

    def sums(self, batch: Batch, backward: BackwardPass) -> Tensor:
        """Return (K,) the training sums, without gradients.

        Args:
            batch: one micro-batch.
            backward: to be called at least once. Every call except the last needs `is_last=False`.
        """


@runtime_checkable
class StepPart(Protocol):
    """A part of a step method. Its `begin_step` is called at the start of each step, for all `Task.step_parts`.

    Modules that it adds to the task are in checkpoints, like the model.
    """

    @property
    def modules(self) -> Sequence[str]:
        """The names of the modules that it adds to the task."""

    def configure(self) -> None:
        """Prepare for the final parameters, which may be split over processes, before a checkpoint is loaded."""

    def begin_step(self, step: int, num_steps: int, seed: int) -> None:
        """Begin a step, before its first micro-batch.

        Args:
            step: number of the steps that are done.
            num_steps: number of the steps of the training.
            seed: seed of the training.
        """


class PlainStep:
    """The default step method: the given losses, with one forward and one backward pass.

    A subclass changes how often it calls `self.losses.sums` and `backward`, and with which arguments.

    Attributes:
        losses: the losses of the task, or those of the task and of distillation.
    """

    def __init__(self, losses: CountedLosses) -> None:
        self.losses = losses

    @property
    def loss_names(self) -> Sequence[str]:
        """(K,) the names of the sums of `losses`."""
        return self.losses.loss_names

    @property
    def num_losses(self) -> int:
        """How many of the sums of `losses` are losses."""
        return self.losses.num_losses

    @property
    def loss_factors(self) -> Sequence[float]:
        """(L,) the factors of `losses`."""
        return self.losses.loss_factors

    def counts(self, batch: Batch) -> Tensor:
        """Return (K,) the counts of the losses."""
        return self.losses.counts(batch)

    def sums(self, batch: Batch, backward: BackwardPass) -> Tensor:
        """Return (K,) the sums of the losses, after one backward pass."""
        sums = self.losses.sums(batch)
        backward(sums[: self.num_losses])
        return sums.detach()

    def operations(self, batch: Batch, num_passes: float = 1) -> float:
        """Return the operations of the losses."""
        return self.losses.operations(batch, num_passes)


def beside_total(loss_names: Sequence[str], num_losses: int) -> list[str]:
    """Rename a loss that would hide the total, if a method adds losses.

    `train/loss` is the total that is minimised. A loss with this name becomes `task_loss`.

    >>> beside_total(["loss", "accuracy"], 1)
    ['task_loss', 'accuracy']
    """
    return ["task_loss" if name == "loss" and i < num_losses else name for i, name in enumerate(loss_names)]
