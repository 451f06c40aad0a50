"""`fit --profile`: the time that the operations of some steps take, as a trace for a browser and as a table."""

from pathlib import Path

import torch
from lightning import Callback, LightningModule, Trainer

from bert_lightning.wording import count

# The first steps are not recorded: they allocate, compile and tune.
_NUM_SKIPPED, NUM_STEPS = 5, 5


class Profiling(Callback):
    """A callback that skips the first five steps of this process, records the next five, and writes two files.

    `trace.json` is in Chrome's format, for https://ui.perfetto.dev or chrome://tracing. `operators.txt` is the table
    of operators, sorted by self time.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._done = 0
        self._profiler: torch.profiler.profile | None = None

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int
    ) -> None:
        if self._done == _NUM_SKIPPED:
            activities = [torch.profiler.ProfilerActivity.CPU]
            if torch.cuda.is_available():
                activities.append(torch.profiler.ProfilerActivity.CUDA)
            self._profiler = torch.profiler.profile(activities=activities, record_shapes=True)
            self._profiler.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        self._done += 1
        if self._done == _NUM_SKIPPED + NUM_STEPS:
            self._write()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the steps recorded so far, if training ends early."""
        self._write()
        if self._done <= _NUM_SKIPPED:
            print(f"no profile: the first {_NUM_SKIPPED} steps are not recorded, and this session had {self._done}")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write the steps recorded so far."""
        self._write()

    def _write(self) -> None:
        profiler, self._profiler = self._profiler, None
        if profiler is None:
            return
        profiler.stop()
        self.folder.mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(str(self.folder / "trace.json"))
        column = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
        table = profiler.key_averages(group_by_input_shape=True).table(sort_by=column, row_limit=50)
        (self.folder / "operators.txt").write_text(table + "\n", encoding="utf-8")
        print(f"profile of {count(self._done - _NUM_SKIPPED, 'step')}: {self.folder}")
