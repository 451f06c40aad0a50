"""Measuring for all benchmarks: contenders in turn, the spread of values, the machine, and results as JSON.

A contender is a function that takes one turn. It returns its measurements, such as the tokens per second of the turn.
"""

import importlib.metadata
import json
import os
import platform
import queue
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from lightning import Callback, LightningModule, Trainer

from bert_lightning.allocation import give_back_freed_memory, keep_freed_memory

# The fraction of their speed that fresh shapes may cost, against the same few batches over and over.
SHAPE_COST_LIMIT = 0.08

Contender = Callable[[], Sequence[float]]


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished its queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class PausedTraining(Callback):
    """A contender that is a training in Lightning's loop. The training stands still between its turns.

    So all turns use one model, one optimiser and one Trainer. The training runs in a thread of its own, which waits
    at the end of a turn until the next one begins. The first turn includes the start of the training.

    Args:
        train: starts the training with this callback. The training must be long enough for all turns.
        num_steps: steps per turn.
        device: the device of the training. It is waited for at the end of a turn, not of each step.
    """

    def __init__(self, train: Callable[[Callback], object], num_steps: int, device: torch.device) -> None:
        self._train = train
        self._num_steps = num_steps
        self._device = device
        self._turns: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._rates: queue.SimpleQueue[float | BaseException] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._num_tokens = self._num_steps_done = 0
        self._began = 0.0

    def __call__(self) -> list[float]:
        """Take one turn, and return its real tokens per second, with everything that happens between two steps."""
        self._turns.put(None)
        if self._thread is None:
            # Python does not wait for such a thread at its end, so a training that stands still is just left.
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()
        rate = self._rates.get()
        if isinstance(rate, BaseException):
            raise rate
        return [rate]

    def _run(self) -> None:
        try:
            self._await_turn()
            self._train(self)
            raise RuntimeError("the training ended before its last turn")
        except BaseException as error:
            self._rates.put(error)

    def _await_turn(self) -> None:
        self._turns.get()
        self._num_tokens = self._num_steps_done = 0
        self._began = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Count the step. After the last one of a turn, hand over its figure and stand still."""
        assert isinstance(batch, list), "an item of our loaders is a list of micro-batches"
        self._num_tokens += sum(each["num_tokens"] for each in batch)
        self._num_steps_done += 1
        if self._num_steps_done < self._num_steps:
            return
        synchronize(self._device)
        rate = self._num_tokens / (time.perf_counter() - self._began)
        # Deterministic algorithms are a setting of the whole process, and must not slow down the other contenders.
        mode = torch.get_deterministic_debug_mode()
        torch.set_deterministic_debug_mode("default")
        self._rates.put(rate)
        self._await_turn()
        torch.set_deterministic_debug_mode(mode)


def with_allocation_of(name: str, contender: Contender) -> Contender:
    """Return a contender that has the allocation of memory of its program, although others take turns in the process.

    `fit` lets the process keep freed memory. transformers has glibc's default, with which its step takes up to 1.8
    times as long.
    """
    prepare = give_back_freed_memory if name.startswith("transformers") else keep_freed_memory

    def take_turn() -> Sequence[float]:
        prepare()
        return contender()

    return take_turn


def in_turn(contenders: Mapping[str, Contender], rounds: int, until: float = float("inf")) -> dict[str, list[float]]:
    """Run each contender once per round, and collect what they return.

    Args:
        contenders: name -> function that takes a turn.
        rounds: the number of rounds.
        until: a time of `time.perf_counter`, after which no round except the first begins.
    """
    values: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds):
        if number and time.perf_counter() > until:
            break
        # Reverse the order every other round, so that no contender always follows the same one.
        names = list(contenders)[:: 1 if number % 2 == 0 else -1]
        for name in names:
            values[name] += contenders[name]()
    return values


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return the median and the middle half of the values.

    >>> spread([1.0, 2.0, 3.0, 4.0, 5.0])
    {'median': 3.0, 'low': 2.0, 'high': 4.0, 'num': 5}
    """
    ordered = sorted(values)
    low, high = ordered[len(ordered) // 4], ordered[-1 - len(ordered) // 4]
    return {"median": statistics.median(ordered), "low": low, "high": high, "num": len(ordered)}


def ratio(mine: Sequence[float], others: Sequence[float]) -> dict[str, float]:
    """Return the median and the middle half of the ratios of two contenders, each of one round.

    Both ran side by side in a round, so a machine that slows down in between changes the ratio less than the values.

    >>> ratio([4.0, 2.0, 6.0], [2.0, 1.0, 2.0])
    {'median': 2.0, 'low': 2.0, 'high': 3.0, 'num': 3}
    """
    return spread([a / b for a, b in zip(mine, others, strict=True)])


def machine() -> dict[str, object]:
    """Return the hardware and the versions of a measurement."""
    names = ("torch", "lightning", "transformers", "tokenizers")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": device,
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in names},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def write_json(path: Path | None, content: Mapping[str, object]) -> None:
    """Write the figures and the machine.

    guard.py reads `ratios`, which are better if larger, and `limits`: name -> the value and the limit it must not
    exceed.
    """
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({**content, "machine": machine()}, indent=2) + "\n", encoding="utf-8")
