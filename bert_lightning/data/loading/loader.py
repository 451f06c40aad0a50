"""Loaders that can resume at any step: an item is a whole step, so the state is a single integer."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Generic, Literal, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from bert_lightning.data.loading.stalls import StallWatch
from bert_lightning.data.loading.workers import WorkerContext, ignore_signals, signals_held
from bert_lightning.errors import InputError

Item = TypeVar("Item")


class StepLoader(Generic[Item]):
    """The items `make(0)` to `make(num_steps - 1)`, prefetched by worker processes.

    Lightning's Trainer can resume inside an epoch only if a loader has a length and a state. The state is the number
    of items delivered, and does not depend on the number of workers. Workers ignore the signals that end training.

    Args:
        make: makes the item of a step.
        num_steps: number of items.
        num_workers: worker processes; 0 to make items in this process.
        pin_memory: copy items to page-locked memory.
        what: the name of an item in the warning about one that takes long.
        split: the split that the items are batches of, for a task that scores splits as a whole.
        first: returns the number of the item with which an iteration begins; 0 by default.
    """

    def __init__(
        self,
        make: Callable[[int], Item],
        num_steps: int,
        num_workers: int,
        pin_memory: bool,
        what: Literal["step", "batch"] = "step",
        split: object = None,
        first: Callable[[], int] = int,
    ) -> None:
        self.make = make
        self.num_steps = num_steps
        self.num_workers = num_workers
        self.pin_memory = pin_memory
        self.what = what
        self.split = split
        self.first = first
        self.position = 0
        self._resume_at = 0

    def __len__(self) -> int:
        return self.num_steps

    def __iter__(self) -> Iterator[Item]:
        self.position, self._resume_at = self._resume_at or self.first(), 0
        loader: DataLoader[Item | InputError] = DataLoader(
            _Made(self.make, self.num_steps),
            sampler=range(self.position, self.num_steps),
            batch_size=None,
            num_workers=self.num_workers,
            pin_memory=self.pin_memory,
            multiprocessing_context=WorkerContext() if self.num_workers else None,
            worker_init_fn=ignore_signals if self.num_workers else None,
            # A separate generator. Otherwise the workers' seeds would be drawn from the one that training uses.
            generator=torch.Generator(),
        )
        with signals_held() if self.num_workers else nullcontext():
            items = iter(loader)
        watch = StallWatch(self.what)
        try:
            for _ in range(self.position, self.num_steps):
                watch.begin(self.position)
                item = next(items)
                watch.end()
                if isinstance(item, InputError):
                    raise item
                self.position += 1
                yield item
        finally:
            watch.stop()

    def state_dict(self) -> dict[str, int]:
        """Return the number of items delivered."""
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue after the items delivered."""
        self.position = self._resume_at = state["position"]


class _Made(Dataset[Item | InputError], Generic[Item]):
    def __init__(self, make: Callable[[int], Item], length: int) -> None:
        self.make = make
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, number: int) -> Item | InputError:
        try:
            return self.make(number)
        except InputError as error:
            # An error that is raised in a worker would arrive as a traceback.
            return error
