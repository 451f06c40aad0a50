"""Learning-rate schedules by name: the factor on the peak rate as a function of the step alone."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

from bert_lightning.checks import RefusedValue


class Schedule(Protocol):
    """A row of the table."""

    def factor(self, step: int, num_steps: int) -> float:
        """The factor at `step`, counted from 0, of `num_steps`."""
        ...

    def check(self, num_steps: int) -> None:
        """Whether there is room for all of it in `num_steps`.

        Raises:
            ValueError: there is not; the message begins with the key.
        """
        ...


@dataclass(frozen=True)
class _WarmedUp(ABC):
    """Up from 0 in the warm-up, step / W while step < W, then what a row of the table adds.

    Attributes:
        warmup_share: W as a share of all steps; where `warmup_steps` is not given either, `default_share`.
        warmup_steps: W itself, in place of the share.
    """

    warmup_share: float | None = None
    warmup_steps: int | None = None
    default_share: ClassVar[float] = 0.1

    def __post_init__(self) -> None:
        if self.warmup_steps is None and self.warmup_share is None:
            object.__setattr__(self, "warmup_share", self.default_share)
        if self.warmup_steps is not None and self.warmup_share is not None:
            raise ValueError(
                f"warmup_steps is {self.warmup_steps} and warmup_share {self.warmup_share}: set one of them to null"
            )
        if self.warmup_share is not None and not 0 <= self.warmup_share < 1:
            raise RefusedValue("warmup_share", self.warmup_share, "be in [0, 1)")
        if self.warmup_steps is not None and self.warmup_steps < 0:
            raise RefusedValue("warmup_steps", self.warmup_steps, "be at least 0")

    def factor(self, step: int, num_steps: int) -> float:
        """step / W while step < W, else as the class says; T is the number of all steps."""
        warmup = self._num_warmup_steps(num_steps)
        return step / warmup if step < warmup else self._factor_behind(warmup, min(step, num_steps), num_steps)

    def check(self, num_steps: int) -> None:
        """Whether the warm-up ends before the training does.

        Raises:
            ValueError: it does not.
        """
        if self.warmup_steps is not None and self.warmup_steps >= num_steps:
            raise ValueError(
                f"warmup_steps is {self.warmup_steps}; it must be less than the {num_steps} steps of all"
            )

    def _num_warmup_steps(self, num_steps: int) -> int:
        return self.warmup_steps if self.warmup_steps is not None else int((self.warmup_share or 0) * num_steps)

    @abstractmethod
    def _factor_behind(self, warmup: int, step: int, num_steps: int) -> float:
        """The factor at a step that is not in the warm-up."""


@dataclass(frozen=True)
class Linear(_WarmedUp):
    """Up from 0 in the warm-up, then down to 0 at the end, 1 - step / T; `optimization.py: create_optimizer`.

    As there, the decay counts from step 0: after the warm-up the factor goes on from 1 - warm-up share. The share is
    0.1 in the original's fine-tuning, 0.01 in the paper's pre-training.
    """

    def _factor_behind(self, warmup: int, step: int, num_steps: int) -> float:
        return 1 - step / num_steps


@dataclass(frozen=True)
class Constant(_WarmedUp):
    """Up from 0 in the warm-up, of which there is none unless it is asked for, then 1."""

    default_share: ClassVar[float] = 0.0

    def _factor_behind(self, warmup: int, step: int, num_steps: int) -> float:
        return 1.0


@dataclass(frozen=True)
class _EndingAt(_WarmedUp):
    """Down to a floor.

    Attributes:
        end_factor: the factor at the last step.
    """

    end_factor: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.end_factor <= 1:
            raise RefusedValue("end_factor", self.end_factor, "be between 0 and 1")

    def _above_end(self, share: float) -> float:
        return self.end_factor + (1 - self.end_factor) * share


@dataclass(frozen=True)
class Polynomial(_EndingAt):
    """Up from 0 in the warm-up, then end + (1 - end) (1 - step / T)^power; `tf.train.polynomial_decay`.

    The decay counts from step 0, as in `optimization.py: create_optimizer` (power 1) and in NVIDIA's
    `DeepLearningExamples, BERT/schedulers.py: PolyWarmUpScheduler` (power 0.5, for LAMB).

    Attributes:
        power: 1 is linear; below it, the rate stays high for longer.
    """

    power: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.power <= 0:
            raise RefusedValue("power", self.power, "be more than 0")

    def _factor_behind(self, warmup: int, step: int, num_steps: int) -> float:
        return self._above_end((1 - step / num_steps) ** self.power)


@dataclass(frozen=True)
class Cosine(_EndingAt):
    """Up from 0 to 1 in the warm-up W, then end + (1 - end) (1 + cos(pi (step - W) / (T - W))) / 2.

    Loshchilov and Hutter 2017 (arXiv 1608.03983), equation 5, without restarts; those are `phases`.
    """

    def _factor_behind(self, warmup: int, step: int, num_steps: int) -> float:
        return self._above_end((1 + math.cos(math.pi * (step - warmup) / (num_steps - warmup))) / 2)


@dataclass(frozen=True)
class WarmupStableDecay(_EndingAt):
    """Up from 0 to 1, long at 1, then down in the last steps; Hu et al. 2024 (MiniCPM, arXiv 2404.06395), section 4.

    With x from 0 to 1 in the decay, the factor comes down as 1 - sqrt(x), the best of the shapes in Hägele et al.
    2024 (arXiv 2405.18392, section 3), as 1 - x, or as end^x, exponentially, as in MiniCPM.

    Attributes:
        decay_share: of all steps; a tenth suffices in MiniCPM, a fifth in Hägele et al.
        decay_shape: how the factor comes down.
    """

    decay_share: float = 0.2
    decay_shape: Literal["sqrt", "linear", "exponential"] = "sqrt"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.decay_share <= 1:
            raise RefusedValue("decay_share", self.decay_share, "be more than 0 and at most 1")
        if self.warmup_share is not None and self.warmup_share + self.decay_share > 1:
            raise ValueError(
                f"decay_share is {self.decay_share} beside a warmup_share of {self.warmup_share}: together they must "
                "be at most 1"
            )
        if self.decay_shape == "exponential" and self.end_factor == 0:
            raise ValueError("end_factor is 0, which no exponential reaches: it must be more than 0, such as 0.1")

    def check(self, num_steps: int) -> None:
        """Whether the warm-up ends before the decay begins.

        Raises:
            ValueError: it does not.
        """
        super().check(num_steps)
        decay = self._num_decay_steps(num_steps)
        if self._num_warmup_steps(num_steps) > num_steps - decay:
            raise ValueError(f"warmup_steps is {self.warmup_steps}, but the decay begins at step {num_steps - decay}")

    def _num_decay_steps(self, num_steps: int) -> int:
        return int(self.decay_share * num_steps)

    def _factor_behind(self, warmup: int, step: int, num_steps: int) -> float:
        decay = self._num_decay_steps(num_steps)
        if step <= num_steps - decay:
            return 1.0
        x = 1 - (num_steps - step) / decay
        if self.decay_shape == "exponential":
            return float(self.end_factor**x)
        return self._above_end(1 - (math.sqrt(x) if self.decay_shape == "sqrt" else x))


@dataclass(frozen=True)
class Phase(Polynomial):
    """A warm-up and a polynomial decay within a phase; `end_factor: 1` holds the rate.

    Attributes:
        from_step: the step of the training that it begins with.
        learning_rate_factor: its peak, as a multiple of the optimiser's learning rate.
    """

    from_step: int = 0
    learning_rate_factor: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.learning_rate_factor <= 0:
            raise RefusedValue("learning_rate_factor", self.learning_rate_factor, "be more than 0")


@dataclass(frozen=True)
class Phases:
    """Schedules one after the other, each over its own steps alone, as if training began anew.

    The two phases of large-batch pre-training (You et al. 2020, arXiv 1904.00962, section 4.1: the second is warmed
    up again) are two of them, beside `data.stages`, which changes length and batch size at the same step.

    Attributes:
        phases: the first begins at step 0; each ends where the next begins.
    """

    phases: list[Phase]

    def __post_init__(self) -> None:
        steps = [phase.from_step for phase in self.phases]
        if not steps or steps[0] != 0 or steps != sorted(set(steps)):
            raise ValueError(
                f"phases begin at the steps {steps}; the first begins at 0, each other behind its former"
            )

    def factor(self, step: int, num_steps: int) -> float:
        """The peak of the phase that holds the step, times the factor of its own schedule."""
        number = max(n for n, phase in enumerate(self.phases) if phase.from_step <= step)
        phase = self.phases[number]
        return phase.learning_rate_factor * phase.factor(step - phase.from_step, self._length(number, num_steps))

    def check(self, num_steps: int) -> None:
        """Whether each phase is reached, and its warm-up ends within it.

        Raises:
            ValueError: it is not.
        """
        for number, phase in enumerate(self.phases):
            if phase.from_step >= num_steps:
                raise ValueError(
                    f"phases.{number}.from_step {phase.from_step} is never reached: training ends after {num_steps} "
                    "steps"
                )
            try:
                phase.check(self._length(number, num_steps))
            except ValueError as error:
                raise ValueError(f"phases.{number}.{error}") from None

    def _length(self, number: int, num_steps: int) -> int:
        ends = [phase.from_step for phase in self.phases[1:]] + [num_steps]
        return ends[number] - self.phases[number].from_step


SCHEDULES: dict[str, type] = {
    "linear": Linear,
    "constant": Constant,
    "polynomial": Polynomial,
    "cosine": Cosine,
    "wsd": WarmupStableDecay,
    "phases": Phases,
}
