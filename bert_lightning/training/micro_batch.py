"""`trainer.accumulate_grad_batches: auto`: the search for the largest micro-batch that fits into memory."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Protocol, cast

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from bert_lightning.distributed.collectives import data_rank, holds_everywhere, process_rank

# The search compares the sizes of the first micro-batches of some steps, evenly spaced over the training. Together
# these micro-batches have about `_NUM_SAMPLES` samples, but there are at least `_FEWEST_STEPS` of them and at most
# `_MOST_STEPS`.
_MOST_STEPS, _FEWEST_STEPS, _NUM_SAMPLES = 32, 4, 16_384
# Parts of the messages with which memory runs out. Only CUDA's allocator has an error of its own for it.
_OUT_OF_MEMORY = ("can't allocate memory", "_STATUS_ALLOC_FAILED", "out of memory")


class Plan(Protocol):
    """The division of training into steps: a dataclass that also has `accumulate`, the micro-batches per step."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

    @property
    def num_steps(self) -> int:
        """The number of steps."""
        ...


class TrainingData(Protocol):
    """A DataModule that cuts the batch of a step into micro-batches according to a plan."""

    @property
    def plan(self) -> Plan:
        """The current division of training into steps."""
        ...

    def use_micro_batches(self, number: int) -> None:
        """Compute each step in this many micro-batches."""
        ...

    def training_batches(self, step: int, plan: Plan, share: int, num_shares: int) -> Sequence[Mapping[str, Any]]:
        """Return the micro-batches of one share of a batch."""
        ...


class Method(Protocol):
    """A way to turn one micro-batch into gradients."""

    def sums(self, batch: Any, backward: Callable[..., None]) -> Tensor:
        """Return the training sums, after calling `backward(losses, is_last=...)`."""
        ...


class TrainedTask(Protocol):
    """A task that is trained with a step method."""

    @property
    def step_method(self) -> Method:
        """Turns a micro-batch into gradients."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """Return the parameters of the model."""
        ...


class _Backward:
    """The backward pass of a micro-batch that is tried: every loss counts once."""

    def __call__(self, losses: Tensor, *, is_last: bool = True) -> None:
        losses.sum().backward()

    def gradient(self, losses: Tensor, of: Tensor) -> Tensor:
        return torch.autograd.grad(losses.sum(), of)[0]


class LargestMicroBatch(Callback):
    """A callback that finds, before the first step, the smallest number of micro-batches that fits into memory.

    All processes use the same number. The loss is always that of the whole batch, so only the random draws of dropout
    depend on the number. A resumed run keeps its number.

    Args:
        batch_size: samples per step in one share of the batch. Without tensor parallelism, each process has a share.
        known: the number of a resumed run; None starts the search.
        chosen: callback that receives the number.
    """

    def __init__(self, batch_size: int, known: int | None, chosen: Callable[[int], None]) -> None:
        self.batch_size = batch_size
        self.known = known
        self.chosen = chosen

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Search now: the model is on its device, and the loaders have not started."""
        data: TrainingData = trainer.datamodule  # type: ignore[attr-defined]
        number = self.known or self._search(trainer, cast(TrainedTask, pl_module), data)
        data.use_micro_batches(number)
        self.chosen(number)

    def _search(self, trainer: Trainer, task: TrainedTask, data: TrainingData) -> int:
        share, num_shares = data_rank(trainer)

        def fits(number: int) -> bool:
            plan = dataclasses.replace(data.plan, accumulate=1)
            steps = steps_to_try(plan.num_steps, self.batch_size // number)
            # With so many shares, the one micro-batch of a share is the first of `number` micro-batches.
            batches = (data.training_batches(step, plan, share, num_shares * number)[0] for step in steps)
            largest = max(batches, key=_num_positions)
            fits_here = _fits(trainer, task, trainer.strategy.batch_to_device(largest))
            return bool(holds_everywhere(torch.tensor(fits_here, device=trainer.strategy.root_device)))

        number = fewest_micro_batches(self.batch_size, fits)
        if process_rank() == 0:
            print(f"micro-batches: {number} per step, of {self.batch_size // number} samples")
        return number


def _num_positions(batch: Mapping[str, Any]) -> int:
    """Return the number of tokens of a micro-batch, with padding and with the unlabelled texts in it."""
    unlabelled = batch.get("unlabelled")
    return int(batch["input_ids"].numel()) + (_num_positions(unlabelled) if unlabelled is not None else 0)


def steps_to_try(num_steps: int, micro_batch_size: int) -> range:
    """Return the steps whose first micro-batches are compared in size.

    >>> len(steps_to_try(1000, 16)), len(steps_to_try(1000, 65536)), len(steps_to_try(2, 16))
    (32, 4, 2)
    """
    number = min(_MOST_STEPS, max(_FEWEST_STEPS, _NUM_SAMPLES // micro_batch_size), num_steps)
    return range(0, num_steps // number * number, num_steps // number)


def fewest_micro_batches(batch_size: int, fits: Callable[[int], bool]) -> int:
    """Return the smallest divisor of the batch size with which it `fits`, or the batch size if none does.

    If even single samples do not fit, training will end with the error message of the device.

    >>> fewest_micro_batches(12, lambda number: 12 // number <= 5)
    3
    """
    divisors = [number for number in range(1, batch_size + 1) if batch_size % number == 0]
    return next((number for number in divisors if fits(number)), batch_size)


def _fits(trainer: Trainer, task: TrainedTask, batch: Mapping[str, Any]) -> bool:
    """Return whether both passes and the optimiser's two moments fit into memory; free all of it again."""
    moments: list[Tensor] = []
    try:
        moments = [torch.empty_like(p) for p in task.parameters() if p.requires_grad for _ in range(2)]
        with trainer.precision_plugin.forward_context():
            task.step_method.sums(batch, _Backward())
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if not isinstance(error, torch.OutOfMemoryError) and not any(part in str(error) for part in _OUT_OF_MEMORY):
            raise
        return False
    finally:
        moments.clear()
        for parameter in task.parameters():
            parameter.grad = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return True
