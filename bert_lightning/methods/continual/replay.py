"""Replay: training on some examples of earlier tasks beside those of the present one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from bert_lightning.checks import RefusedValue, require_below_one, require_positive
from bert_lightning.data.loading.randomness import derive_key, random_bits
from bert_lightning.methods.continual.method import ContinualMethod


@dataclass(frozen=True)
class Replay(ContinualMethod):
    """Replay of stored examples: Robins 1995; for BERT, de Masson d'Autume et al. 2019, arXiv 1906.01076.

    Each training example of each task has a random number, a hash of (seed, name of the task, number of the
    example). The buffer holds the `size` examples of earlier tasks with the smallest numbers. So it is a uniform
    sample of them, it depends on nothing else, and the buffer of a later task holds no example that an earlier one
    had dropped.

    Attributes:
        size: number of stored examples, over all earlier tasks; `all` is joint training on all tasks so far.
        share: share of stored examples among the examples of an epoch. They are repeated or left out to reach it.
            With null, each stored example counts once per epoch, like the examples of the task itself.
    """

    size: int | Literal["all"] = 100
    share: float | None = None

    def __post_init__(self) -> None:
        if self.size != "all" and (isinstance(self.size, bool) or self.size < 1):
            raise RefusedValue("size", self.size, "be at least 1, or all")
        require_positive(self, "share")
        require_below_one(self, "share")

    def check_size(self, num_examples: Sequence[int]) -> None:
        """Check that the last task can fill the buffer."""
        available = sum(num_examples[:-1])
        if self.size != "all" and self.size > available:
            raise ValueError(
                f"size is {self.size}, but the tasks before the last one have {available} training examples: "
                f"set it to at most {available}, or to all"
            )

    def replayed(self, num_examples: Sequence[int], names: Sequence[str], seed: int, num_own: int) -> list[list[int]]:
        """Return the numbers of the stored examples of each earlier task, sorted; with `share`, some may repeat."""
        owners = np.concatenate([np.full(num, task) for task, num in enumerate(num_examples)] or [np.zeros(0, int)])
        numbers = np.concatenate([np.arange(num) for num in num_examples] or [np.zeros(0, int)])
        drawn = [
            random_bits(derive_key(seed, "replay", name), np.arange(num))
            for name, num in zip(names, num_examples, strict=True)
        ]
        order = np.argsort(np.concatenate(drawn or [np.zeros(0, np.uint64)]), kind="stable")
        stored = order if self.size == "all" else order[: self.size]
        if self.share is not None and len(stored):
            stored = np.resize(stored, round(num_own * self.share / (1 - self.share)))
        return [sorted(numbers[stored[owners[stored] == task]].tolist()) for task in range(len(names))]
