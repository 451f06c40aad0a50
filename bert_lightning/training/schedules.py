"""Learning-rate schedules by name: the factor on the peak rate as a function of the step alone."""

from dataclasses import dataclass
from typing import Protocol


class Schedule(Protocol):
    """A row of the table."""

    def factor(self, step: int, num_steps: int) -> float:
        """The factor at `step`, counted from 0, of `num_steps`."""
        ...


@dataclass(frozen=True)
class Linear:
    """Up from 0 in the warm-up, then down to 0 at the end; `optimization.py: create_optimizer`.

    As there, the decay counts from step 0: after the warm-up the factor goes on from 1 - warm-up share.

    Attributes:
        warmup_share: share of all steps; 0.1 in the original's fine-tuning, 0.01 in the paper's pre-training.
    """

    warmup_share: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.warmup_share < 1:
            raise ValueError(f"warmup_share is {self.warmup_share}; it must be in [0, 1)")

    def factor(self, step: int, num_steps: int) -> float:
        """step / W while step < W, else 1 - step / T."""
        warmup_steps = int(self.warmup_share * num_steps)
        return step / warmup_steps if step < warmup_steps else max(0.0, 1 - step / num_steps)


@dataclass(frozen=True)
class Constant:
    """Up from 0 in the warm-up, then 1.

    Attributes:
        warmup_share: share of all steps.
    """

    warmup_share: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.warmup_share < 1:
            raise ValueError(f"warmup_share is {self.warmup_share}; it must be in [0, 1)")

    def factor(self, step: int, num_steps: int) -> float:
        """step / W while step < W, else 1."""
        warmup_steps = int(self.warmup_share * num_steps)
        return step / warmup_steps if step < warmup_steps else 1.0


SCHEDULES: dict[str, type] = {"linear": Linear, "constant": Constant}
