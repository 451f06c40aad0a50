"""`trainer.accumulate_grad_batches: auto`: the largest micro-batch that fits into memory; the step's batch stays."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

# Steps, evenly over the training, among which the largest micro-batch is looked for.
_NUM_LOOKED_AT = 32


class LargestMicroBatch(Callback):
    """Before the first step, tries one, two, ... micro-batches a step until one fits; the same number on all ranks.

    The loss is of the whole step's batch however it is split, so only dropout's draws depend on the number. A run
    that goes on keeps the number that it began with.

    Args:
        batch_size: samples of a step on one rank.
        known: what the run began with.
        chosen: is told the number.
    """

    def __init__(self, batch_size: int, known: int | None, chosen: Callable[[int], None]) -> None:
        self.batch_size = batch_size
        self.known = known
        self.chosen = chosen

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The model is where it is trained; loaders have not begun."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        number = self.known or self._search(trainer, pl_module, data)
        data.use_micro_batches(number)
        self.chosen(number)

    def _search(self, trainer: Trainer, task: Any, data: Any) -> int:
        def fits(number: int) -> bool:
            plan = dataclasses.replace(data.plan, accumulate=number)
            steps = range(0, plan.num_steps, max(1, plan.num_steps // _NUM_LOOKED_AT))
            batches = (
                data.training_batches(step, plan, trainer.global_rank, trainer.world_size)[0] for step in steps
            )
            largest = max(batches, key=lambda batch: batch["input_ids"].numel())
            moved = trainer.strategy.batch_to_device(largest)
            return all_ranks(trainer, _fits(trainer, task, moved))

        number = fewest_micro_batches(self.batch_size, fits)
        if trainer.global_rank == 0:
            print(f"micro-batches: {number} of {self.batch_size // number} a step")
        return number


def fewest_micro_batches(batch_size: int, fits: Callable[[int], bool]) -> int:
    """The smallest divisor of the batch size with which it `fits`; the batch size itself where none does.

    With single samples that do not fit either, training ends with the device's own message.
    """
    divisors: Sequence[int] = [number for number in range(1, batch_size + 1) if batch_size % number == 0]
    return next((number for number in divisors if fits(number)), batch_size)


def all_ranks(trainer: Trainer, fits: bool) -> bool:
    """Whether it fits everywhere."""
    if trainer.world_size == 1:
        return fits
    flag = torch.tensor(float(fits), device=trainer.strategy.root_device)
    torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MIN)
    return bool(flag)


def _fits(trainer: Trainer, task: Any, batch: Any) -> bool:
    """Whether forward and backward pass and the optimiser's two moments find room; leaves nothing behind."""
    moments: list[torch.Tensor] = []
    try:
        moments = [torch.empty_like(p) for p in task.parameters() if p.requires_grad for _ in range(2)]
        with trainer.precision_plugin.forward_context():
            losses = task.sums(batch)[: task.num_losses]
        losses.sum().backward()
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        return False
    finally:
        moments.clear()
        for parameter in task.parameters():
            parameter.grad = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return True
