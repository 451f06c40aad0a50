"""Stages of pre-training, which change its length and batch size, and batches that grow over the first steps."""

from dataclasses import dataclass
from typing import NamedTuple

from bert_lightning.checks import require_at_least
from bert_lightning.data.loading.module import TrainingPlan


@dataclass(frozen=True)
class PretrainingStage:
    """A change of settings at a step of the training.

    Attributes:
        from_step: the optimiser step with which the stage begins.
        max_seq_length: longest sample from this step on; unchanged unless given.
        batch_size: samples per optimiser step from this step on; unchanged unless given.
        accumulate_grad_batches: micro-batches per step from this step on; unchanged unless given.
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
    """Batches that grow over the first steps: `start`, `start + increment`, and so on, up to `batch_size`.

    Each size is used for about the same number of steps. Megatron-LM has the same as `--rampup-batch-size`
    (`num_microbatches_calculator.py`), counted in samples; so does GPT-3 (Brown et al. 2020, arXiv:2005.14165,
    appendix B), counted in tokens. Here it is counted in steps.

    The number of micro-batches grows with the batch and is rounded up, so that no micro-batch is larger than those of
    the full batch.

    Attributes:
        start: samples per step in the first steps; null for no warm-up.
        increment: samples by which the batch grows each time; null for `start`.
        num_steps: the first step with the full batch size.
    """

    start: int | None = None
    increment: int | None = None
    num_steps: int | None = None

    def __post_init__(self) -> None:
        require_at_least(self, 1, "start", "increment", "num_steps")
        for name, needed in (("start", "num_steps"), ("num_steps", "start"), ("increment", "start")):
            if getattr(self, name) is not None and getattr(self, needed) is None:
                raise ValueError(f"{name} needs data.batch_size_warmup.{needed} to be set as well")

    def sizes(self, batch_size: int) -> list[tuple[int, int]]:
        """Return (first step, samples per step) for each batch size; a single one without a warm-up.

        Raises:
            ValueError: the sizes do not lead from `start` to `batch_size`, or there are more sizes than steps.

        >>> BatchSizeWarmup(start=64, increment=64, num_steps=300).sizes(256)
        [(0, 64), (100, 128), (200, 192), (300, 256)]
        """
        if self.start is None or self.num_steps is None:
            return [(0, batch_size)]
        increment = self.increment or self.start
        num_sizes, rest = divmod(batch_size - self.start, increment)
        if num_sizes < 1 or rest:
            raise ValueError(
                f"batch_size_warmup does not lead to batch_size {batch_size} from {self.start} by increments of "
                f"{increment}: batch_size must be start plus one or more increments"
            )
        if num_sizes > self.num_steps:
            raise ValueError(
                f"batch_size_warmup.num_steps is {self.num_steps}; it must be at least {num_sizes}, the number of "
                "smaller batch sizes: or make the increment larger"
            )
        return [
            (number * self.num_steps // num_sizes, self.start + number * increment) for number in range(num_sizes + 1)
        ]


class ResolvedStage(NamedTuple):
    """A stage with all its values, including those it takes over from the stage before.

    Attributes:
        number: counted from 0.
        key: the configuration key of its batch size, for messages.
        first_step: the optimiser step with which it begins.
        max_seq_length: longest sample.
        batch_size: samples per step.
        full_batch_size: in a stage of the warm-up, the batch size at its end; in any other stage, `batch_size`.
        accumulate: micro-batches per step; None for those of the trainer.
        samples_before: samples that the stages before consume.
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
        """Return the micro-batches per step and process."""
        return self.accumulate or -(-plan.accumulate * self.batch_size // self.full_batch_size)


def resolve_stages(
    max_seq_length: int, batch_size: int, warmup: BatchSizeWarmup, changes: list[PretrainingStage]
) -> list[ResolvedStage]:
    """Return all stages of a training, at least one; each batch size of the warm-up is a stage.

    >>> stages = resolve_stages(128, 32, BatchSizeWarmup(), [PretrainingStage(from_step=900, max_seq_length=512)])
    >>> [(stage.first_step, stage.max_seq_length, stage.batch_size) for stage in stages]
    [(0, 128, 32), (900, 512, 32)]
    """
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
