"""Learning-rate schedules by name: each gives the factor on the peak rate as a function of the step alone."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

from bert_lightning.checks import (
    require_at_least,
    require_below_one,
    require_between,
    require_fraction,
    require_positive,
)


class Schedule(Protocol):
    """An entry of `SCHEDULES`."""

    def factor(self, step: int, num_steps: int) -> float:
        """Return the factor at `step`, counted from 0, in a training of `num_steps`."""
        ...

    def check(self, num_steps: int) -> None:
        """Check that the whole schedule fits into `num_steps`.

        Raises:
            ValueError: it does not; the message begins with the key.
        """
        ...


@dataclass(frozen=True)
class _WithWarmup(ABC):
    """A schedule with a linear warm-up from 0: step / W while step < W. Subclasses define the factor after it.

    Attributes:
        warmup_share: W as a fraction of all steps; 0.1 if neither key is set, and 0 if the schedule is `constant`.
        warmup_steps: W itself, the steps of the warm-up, instead of the fraction.
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
        require_below_one(self, "warmup_share")
        require_at_least(self, 0, "warmup_steps")

    def factor(self, step: int, num_steps: int) -> float:
        """Return step / W while step < W, then the factor that the class defines; T is `num_steps`."""
        warmup = self._num_warmup_steps(num_steps)
        return step / warmup if step < warmup else self._factor_after_warmup(warmup, min(step, num_steps), num_steps)

    def check(self, num_steps: int) -> None:
        """Check that the warm-up ends before the training does.

        Raises:
            ValueError: it does not.
        """
        if self.warmup_steps is not None and self.warmup_steps >= num_steps:
            raise ValueError(
                f"warmup_steps is {self.warmup_steps}; it must be less than the {num_steps} steps of training"
            )

    def _num_warmup_steps(self, num_steps: int) -> int:
        return self.warmup_steps if self.warmup_steps is not None else int((self.warmup_share or 0) * num_steps)

    @abstractmethod
    def _factor_after_warmup(self, warmup: int, step: int, num_steps: int) -> float:
        """Return the factor at a step after the warm-up."""


@dataclass(frozen=True)
class Linear(_WithWarmup):
    """Warm-up from 0, then linear decay to 0 at the end, 1 - step / T; `optimization.py: create_optimizer`.

    As in the original code, the decay counts from step 0, so after the warm-up the factor continues at
    1 - `warmup_share`. The share is 0.1 in the original fine-tuning and 0.01 in the paper's pre-training.

    >>> [Linear(warmup_share=0.1).factor(step, num_steps=100) for step in (0, 5, 10, 50, 100)]
    [0.0, 0.5, 0.9, 0.5, 0.0]
    """

    def _factor_after_warmup(self, warmup: int, step: int, num_steps: int) -> float:
        return 1 - step / num_steps


@dataclass(frozen=True)
class Constant(_WithWarmup):
    """Warm-up from 0 if it is configured, then 1. There is no warm-up by default."""

    default_share: ClassVar[float] = 0.0

    def _factor_after_warmup(self, warmup: int, step: int, num_steps: int) -> float:
        return 1.0


@dataclass(frozen=True)
class _WithFloor(_WithWarmup):
    """A schedule that decays to a floor.

    Attributes:
        end_factor: the factor at the last step.
    """

    end_factor: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_between(self, 0, 1, "end_factor")

    def _above_end(self, share: float) -> float:
        return self.end_factor + (1 - self.end_factor) * share


@dataclass(frozen=True)
class Polynomial(_WithFloor):
    """Warm-up from 0, then end + (1 - end) (1 - step / T)^power; `tf.train.polynomial_decay`.

    The decay counts from step 0, as in `optimization.py: create_optimizer` (power 1) and in NVIDIA's
    `DeepLearningExamples, BERT/schedulers.py: PolyWarmUpScheduler` (power 0.5, for LAMB).

    Attributes:
        power: 1 is linear; with smaller powers the rate stays high for longer.
    """

    power: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "power")

    def _factor_after_warmup(self, warmup: int, step: int, num_steps: int) -> float:
        return self._above_end((1 - step / num_steps) ** self.power)


@dataclass(frozen=True)
class Cosine(_WithFloor):
    """Warm-up from 0 to 1 in W steps, then end + (1 - end) (1 + cos(pi (step - W) / (T - W))) / 2.

    Loshchilov and Hutter 2017 (arXiv 1608.03983), equation 5, without restarts.

    >>> [round(Cosine(warmup_steps=20).factor(step, num_steps=100), 3) for step in (10, 20, 40, 60, 100)]
    [0.5, 1.0, 0.854, 0.5, 0.0]
    """

    def _factor_after_warmup(self, warmup: int, step: int, num_steps: int) -> float:
        return self._above_end((1 + math.cos(math.pi * (step - warmup) / (num_steps - warmup))) / 2)


@dataclass(frozen=True)
class WarmupStableDecay(_WithFloor):
    """Warm-up from 0 to 1, constant at 1, then decay in the last steps.

    Hu et al. 2024 (MiniCPM, arXiv 2404.06395), section 4. During the decay, x grows from 0 to 1. The factor falls as
    1 - sqrt(x), as 1 - x, or exponentially as end^x, as in MiniCPM. The first shape is the best in Hägele et al. 2024
    (arXiv 2405.18392), section 3.

    Attributes:
        decay_share: the length of the decay as a fraction of all steps; a tenth suffices in MiniCPM, a fifth in
            Hägele et al.
        decay_shape: the shape of the decay.

    >>> schedule = WarmupStableDecay(decay_share=0.2, decay_shape="linear")
    >>> [round(schedule.factor(step, num_steps=100), 3) for step in (5, 10, 80, 90, 100)]
    [0.5, 1.0, 1.0, 0.5, 0.0]
    """

    decay_share: float = 0.2
    decay_shape: Literal["sqrt", "linear", "exponential"] = "sqrt"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_fraction(self, "decay_share")
        if self.warmup_share is not None and self.warmup_share + self.decay_share > 1:
            raise ValueError(
                f"decay_share is {self.decay_share} and warmup_share {self.warmup_share}: their sum must be at most 1"
            )
        if self.decay_shape == "exponential" and self.end_factor == 0:
            raise ValueError(
                "end_factor is 0, which an exponential decay never reaches; it must be more than 0, such as 0.1"
            )

    def check(self, num_steps: int) -> None:
        """Check that the warm-up ends before the decay begins.

        Raises:
            ValueError: it does not.
        """
        super().check(num_steps)
        decay = self._num_decay_steps(num_steps)
        if self._num_warmup_steps(num_steps) > num_steps - decay:
            raise ValueError(f"warmup_steps is {self.warmup_steps}, but the decay begins at step {num_steps - decay}")

    def _num_decay_steps(self, num_steps: int) -> int:
        return int(self.decay_share * num_steps)

    def _factor_after_warmup(self, warmup: int, step: int, num_steps: int) -> float:
        decay = self._num_decay_steps(num_steps)
        if step <= num_steps - decay:
            return 1.0
        x = 1 - (num_steps - step) / decay
        if self.decay_shape == "exponential":
            return float(self.end_factor**x)
        return self._above_end(1 - (math.sqrt(x) if self.decay_shape == "sqrt" else x))


@dataclass(frozen=True)
class Phase(Polynomial):
    """A phase with its own warm-up and polynomial decay; `end_factor: 1` holds the rate constant.

    Attributes:
        from_step: the step of the training at which it begins.
        learning_rate_factor: its peak rate, as a multiple of the optimiser's learning rate.
    """

    from_step: int = 0
    learning_rate_factor: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "learning_rate_factor")


@dataclass(frozen=True)
class Phases:
    """A schedule in phases; each phase has its own schedule, as if training began again.

    Large-batch pre-training has two phases, and the second begins with a warm-up too (You et al. 2020, arXiv
    1904.00962, section 4.1). There, `data.stages` changes length and batch size at the same step.

    Attributes:
        phases: the first begins at step 0; each ends at the step at which the next begins.

    >>> schedule = Phases([Phase(), Phase(from_step=50, learning_rate_factor=0.5)])
    >>> [schedule.factor(step, num_steps=100) for step in (0, 25, 50, 75, 100)]
    [0.0, 0.5, 0.0, 0.25, 0.0]
    """

    phases: list[Phase]

    def __post_init__(self) -> None:
        steps = [phase.from_step for phase in self.phases]
        if not steps or steps[0] != 0 or steps != sorted(set(steps)):
            raise ValueError(
                f"phases begin at the steps {steps}; the first must begin at 0, and each later one after the one "
                "before it"
            )

    def factor(self, step: int, num_steps: int) -> float:
        """Return the peak of the phase that contains the step, times the factor of the phase's own schedule."""
        number = max(n for n, phase in enumerate(self.phases) if phase.from_step <= step)
        phase = self.phases[number]
        return phase.learning_rate_factor * phase.factor(step - phase.from_step, self._length(number, num_steps))

    def check(self, num_steps: int) -> None:
        """Check that each phase is reached and that its warm-up ends within it.

        Raises:
            ValueError: a phase is never reached, or its warm-up is too long.
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
