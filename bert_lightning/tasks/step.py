"""The gradients of one optimiser step over micro-batches: seeding of dropout, counts, sums, and backward passes."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, NamedTuple

import torch
from lightning.pytorch.strategies import ParallelStrategy, Strategy
from torch import Tensor

from bert_lightning.data.loading.batching import Batch
from bert_lightning.data.loading.randomness import derive_key
from bert_lightning.distributed.collectives import data_rank, sum_over_shares
from bert_lightning.model.parts import ContractError
from bert_lightning.tasks.log_interval import Work
from bert_lightning.tasks.step_method import StepMethod
from bert_lightning.tasks.update import loss_scaler

if TYPE_CHECKING:
    from bert_lightning.tasks.task import Optimization, Task


class Backward:
    """The backward pass of one micro-batch, which a `StepMethod` calls.

    Args:
        task: holds the model.
        loss_of: function from (L,) summed losses to the loss of the step, ().
        exchanges: whether the last pass adds up the gradients over processes; DDP does so once per step.
    """

    def __init__(self, task: "Task", loss_of: Callable[[Tensor], Tensor], *, exchanges: bool) -> None:
        self._task = task
        self._loss_of = loss_of
        self._exchanges = exchanges
        self._ended = False

    def __call__(self, losses: Tensor, *, is_last: bool = True) -> None:
        """Add the gradients of summed losses, each divided by its count over the whole batch.

        Args:
            losses: (L,) the summed losses of the micro-batch.
            is_last: whether no other pass of this micro-batch follows.

        Raises:
            ContractError: the last pass has been made already, or the losses carry no gradients.
        """
        if self._ended:
            raise ContractError(
                "step_method: backward was called after the last pass: every pass before the last needs is_last=False"
            )
        _require_gradients(losses)
        self._ended = is_last
        strategy = self._task.trainer.strategy
        with nullcontext() if is_last and self._exchanges else _without_gradient_exchange(strategy):
            self._task.manual_backward(self._loss_of(losses))

    def gradient(self, losses: Tensor, of: Tensor) -> Tensor:
        """Return the gradient of summed losses with respect to a tensor, in its shape; parameters get none.

        Args:
            losses: (L,) the summed losses of the micro-batch.
            of: a tensor that requires gradients. Its `grad` does not change.

        Raises:
            ContractError: the losses carry no gradients.
        """
        _require_gradients(losses)
        loss, scaler = self._loss_of(losses), loss_scaler(self._task)
        with _without_gradient_exchange(self._task.trainer.strategy):
            if scaler is None:
                (gradient,) = torch.autograd.grad(loss, of)
                return gradient
            (gradient,) = torch.autograd.grad(scaler.scale(loss), of)
            scale = scaler._get_scale_async()
            assert scale is not None, "the loss was scaled"
            return gradient / scale

    def check_ended(self) -> None:
        """Check that the last pass was made. Without it, the weights of the processes would differ.

        Raises:
            ContractError: the last pass is missing.
        """
        if not self._ended:
            raise ContractError(
                "step_method: no last backward pass was made: call backward once without is_last=False"
            )


def _require_gradients(losses: Tensor) -> None:
    if not losses.requires_grad:
        raise ContractError(
            "the losses carry no gradients: head, loss and step_method must compute them with torch's operations "
            "from the outputs of the model, and not detach them"
        )


class StepSums(NamedTuple):
    """Sums over this process's micro-batches of one step, on the device."""

    sums: Tensor
    """(K,) the training sums"""
    counts: Tensor
    """(K,) the divisor of each"""
    loss: Tensor
    """() its mean over all processes is the loss of the step"""
    work: Tensor
    """(3,) the fields of `Work`"""

    def only_if(self, finite: Tensor) -> tuple[Tensor, Tensor]:
        """Return sums and divisors if the step is finite, otherwise zeros."""
        return torch.where(finite, self.sums, 0), torch.where(finite, self.counts, 0)


def accumulate_gradients(
    task: "Task", optimization: "Optimization", method: StepMethod, micro_batches: Sequence[Batch], work: Work
) -> StepSums:
    """Add up the gradients of this process's micro-batches.

    Each sum is divided by its count over all micro-batches of all processes. Dropout is seeded for each micro-batch.
    No operation waits for the device.

    Args:
        task: holds the model.
        optimization: the settings of the step.
        method: turns a micro-batch into gradients.
        micro_batches: those of this process.
        work: the amount of work in them.

    Raises:
        ContractError: the method returns counts, sums or losses of another number than it names.
    """
    trainer, step = task.trainer, task.trainer.global_step
    share, num_shares = data_rank(trainer)
    num_sums, num_losses = len(method.loss_names), method.num_losses
    of_batches = [_numbered(method.counts(batch), num_sums, "counts returned") for batch in micro_batches]
    counts = torch.stack(of_batches).sum(0).float()
    # One copy brings all numbers of the host to the device. Each copy costs as much as a hundred kernels.
    known = counts.tolist() if counts.device.type == "cpu" else []
    factors = loss_weights(task, optimization)
    numbers = numbers_on(task.device, [*factors, *work, *known])
    weights, on_device, known_counts = numbers.split([len(factors), len(work), len(known)])
    counts = known_counts if known else counts
    totals = sum_over_shares(counts, num_shares)[:num_losses]
    divisors = torch.where(totals > 0, totals, torch.ones_like(totals))

    def loss_of(losses: Tensor) -> Tensor:
        losses = _numbered(losses, num_losses, "backward was called with")
        # Gradients are averaged over processes; the factor makes that a sum.
        return (losses / divisors * weights).sum() * num_shares

    sums = torch.zeros_like(counts)
    for number, batch in enumerate(micro_batches):
        torch.manual_seed(derive_key(optimization.seed, "dropout", step, share, number))
        backward = Backward(task, loss_of, exchanges=number == len(micro_batches) - 1)
        sums += _numbered(method.sums(batch, backward), num_sums, "sums returned").detach()
        backward.check_ended()
    return StepSums(sums, counts, loss_of(sums[:num_losses]), on_device)


def numbers_on(device: torch.device, values: Sequence[float]) -> Tensor:
    """Copy numbers to a device in float32, (n,), without waiting for what it computes."""
    pins = device.type == "cuda"
    return torch.tensor(values, dtype=torch.float32, pin_memory=pins).to(device, non_blocking=True)


def _numbered(values: object, number: int, event: str) -> Tensor:
    """Return values after checking that they are one per sum: another number would be broadcast silently.

    Raises:
        ContractError: they are no tensor of that number.
    """
    if isinstance(values, Tensor) and values.shape == (number,):
        return values
    kind = f"the shape {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
    raise ContractError(f"step_method: {event} {kind}; expected a tensor of shape ({number},), as its names say")


def loss_weights(task: "Task", optimization: "Optimization") -> list[float]:
    """Return the factor on each loss: that of the step method times that of the settings."""
    method = task.step_method
    return [
        factor * optimization.loss_weights.get(name, 1.0)
        for name, factor in zip(method.loss_names, method.loss_factors, strict=False)
    ]


def _without_gradient_exchange(strategy: Strategy) -> AbstractContextManager[None]:
    return strategy.block_backward_sync() if isinstance(strategy, ParallelStrategy) else nullcontext()
