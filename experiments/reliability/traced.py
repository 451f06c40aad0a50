"""The command `bert-lightning` with a trace: a line per training step with its process, rank and samples.

    BERT_LIGHTNING_TRACE=FILE python experiments/reliability/traced.py fit --config ...

BERT_LIGHTNING_SLOW_WRITING=SECONDS imitates a slow disk: each write in the background waits up to that long. Without
it, a small checkpoint would be complete before the next step.

The package knows nothing of the trace. A rank writes its line before the step exchanges anything with other ranks, so
no checkpoint can hold a step that is missing in the file. Each line is a single write, so a kill cannot tear it.
"""

import json
import os
import random
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bert_lightning.cli import leave, main

if TYPE_CHECKING:
    from torch import Tensor

    from bert_lightning.data.loading.batching import Batch

VARIABLE = "BERT_LIGHTNING_TRACE"
SLOW = "BERT_LIGHTNING_SLOW_WRITING"


def identities(batch: "Batch") -> list[list[int]]:
    """Return each sample's epoch and index, and the CRC-32 of its masked tokens."""
    sequences = batch["input_ids"].cpu().numpy()
    return [
        [*numbers, zlib.crc32(sequence.tobytes())]
        for numbers, sequence in zip(batch["samples"].tolist(), sequences, strict=True)
    ]


def trace(path: str) -> None:
    """Make every task write a line to `path` for each step."""
    from bert_lightning.tasks.task import Task

    untraced = Task.training_step

    def traced(self: Task, batch: "list[Batch] | Batch", batch_idx: int) -> "dict[str, Tensor]":
        micro_batches = batch if isinstance(batch, list) else [batch]
        samples = [sample for each in micro_batches for sample in identities(each)]
        row = {
            "process": os.getpid(),
            "rank": self.global_rank,
            "step": self.trainer.global_step + 1,
            "samples": samples,
        }
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.write(descriptor, (json.dumps({**row, "time": time.time()}) + "\n").encode())
        os.close(descriptor)
        return untraced(self, micro_batches, batch_idx)

    Task.training_step = traced  # type: ignore[method-assign]


def slow_down(seconds: float) -> None:
    """Delay each write in the background by up to `seconds`."""
    from bert_lightning.training.background import Background

    at_once = Background.do

    def slowly(self: Background, work: Callable[[], object]) -> None:
        def work_slowly() -> None:
            # This generator is independent of those that training draws from.
            time.sleep(random.SystemRandom().uniform(0, seconds))
            work()

        at_once(self, work_slowly)

    Background.do = slowly  # type: ignore[method-assign]


if __name__ == "__main__":
    if VARIABLE in os.environ and "fit" in sys.argv[1:2]:
        trace(os.environ[VARIABLE])
        slow_down(float(os.environ.get(SLOW, 0)))
    leave(main())
