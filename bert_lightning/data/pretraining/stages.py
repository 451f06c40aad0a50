"""What changes in the course of pre-training: stages, and batches that grow over the first steps."""

from dataclasses import dataclass
from typing import NamedTuple

from bert_lightning.checks import require_at_least
from bert_lightning.data.loading.module import TrainingPlan


@dataclass(frozen=True)
class PretrainingStage:
    """What changes at a step of the training.

    Attributes:
        from_step: the optimiser step it begins with.
        max_seq_length: longest sample from then on.
        batch_size: samples of one optimiser step from then on.
        accumulate_grad_batches: micro-batches of a step from then on.
    """

    from_step: int
    max_seq_length: int | None = None
    batch_size: int | None = None
    accumulate_grad_batches: int | None = None

    def __post_init__(self) -> None:
        require_at_least(self, 1, "from_step", "batch_size", "accumulate_grad_batches")
        require_at_least(self, 5, "max_seq_length")


@dataclass(frozen=True)
class BatchSizeWarmup:
    """Small batches first, `start`, `start + increment`, ..., each for about equally many steps; then `batch_size`.

    As `--rampup-batch-size` of Megatron-LM (`num_microbatches_calculator.py`), which counts samples, and in GPT-3
    (Brown et al. 2020, arXiv 2005.14165, appendix B), which counts tokens; here it is steps. A step of the warm-up
    has as many micro-batches as its share of the full batch asks for, rounded up, so none is larger than those of the
    full batch.

    Attributes:
        start: samples of the first steps; null for no warm-up.
        increment: by how many samples the batches grow at a time; `start` where it is null.
        num_steps: the first step of the full batch size.
    """

    start: int | None = None
    increment: int | None = None
    num_steps: int | None = None

    def __post_init__(self) -> None:
        require_at_least(self, 1, "start", "increment", "num_steps")
        for name, needed in (("start", "num_steps"), ("num_steps", "start"), ("increment", "start")):
            if getattr(self, name) is not None and getattr(self, needed) is None:
                raise ValueError(f"{name} needs data.batch_size_warmup.{needed} beside it")

    def sizes(self, batch_size: int) -> list[tuple[int, int]]:
        """(first step, samples of a step) of each size, from step 0 to the full batch; one without a warm-up.

        Raises:
            ValueError: they do not lead from `start` to `batch_size`, or there are more of them than steps.
        """
        if self.start is None or self.num_steps is None:
            return [(0, batch_size)]
        increment = self.increment or self.start
        num_sizes, rest = divmod(batch_size - self.start, increment)
        if num_sizes < 1 or rest:
            raise ValueError(
                f"batch_size_warmup does not lead to batch_size {batch_size} from {self.start} by {increment}s"
            )
        if num_sizes > self.num_steps:
            raise ValueError(
                f"batch_size_warmup.num_steps is {self.num_steps}, but there are {num_sizes} sizes before the full "
                "batch: make the increment larger"
            )
        return [
            (number * self.num_steps // num_sizes, self.start + number * increment) for number in range(num_sizes + 1)
        ]


class ResolvedStage(NamedTuple):
    """A stage with all that it takes over from the one before.

    Attributes:
        number: counted from 0.
        key: the setting that its batch size is from.
        first_step: the optimiser step it begins with.
        max_seq_length: longest sample.
        batch_size: samples of a step.
        full_batch_size: what the batch size is on its way to in a warm-up, else itself.
        accumulate: micro-batches of a step, where not the trainer's.
        samples_before: consumed by the stages before.
    """

    number: int
    key: str
    first_step: int
    max_seq_length: int
    batch_size: int
    full_batch_size: int
    accumulate: int | None
    samples_before: int

    def num_micro_batches(self, plan: TrainingPlan) -> int:
        """Micro-batches of a step."""
        return self.accumulate or -(-plan.accumulate * self.batch_size // self.full_batch_size)


def resolved(
    max_seq_length: int, batch_size: int, warmup: BatchSizeWarmup, changes: list[PretrainingStage]
) -> list[ResolvedStage]:
    """All stages of a training, those of its warm-up first; at least one."""
    [(_, size), *larger] = warmup.sizes(batch_size)
    key = "data.batch_size_warmup: batch size" if larger else "data.batch_size"
    stages = [ResolvedStage(0, key, 0, max_seq_length, size, batch_size, None, 0)]
    later = [(key, PretrainingStage(step, batch_size=size)) for step, size in larger]
    later += [(f"data.stages.{number}.batch_size", change) for number, change in enumerate(changes)]
    for number, (key, change) in enumerate(later, 1):
        before = stages[-1]
        consumed = before.samples_before + (change.from_step - before.first_step) * before.batch_size
        size = change.batch_size or before.batch_size
        stages.append(
            ResolvedStage(
                number,
                key,
                change.from_step,
                change.max_seq_length or before.max_seq_length,
                size,
                batch_size if number <= len(larger) else size,
                change.accumulate_grad_batches or before.accumulate,
                consumed,
            )
        )
    return stages
