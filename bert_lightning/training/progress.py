"""Display of the progress of training: a bar in a terminal, and a line from time to time elsewhere."""

import sys
import time
from collections.abc import Sequence

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

# Without a terminal, lines are at least this far apart.
SECONDS_BETWEEN_LINES = 10.0


class TrainingProgress(ProgressBar):
    """Display of the steps done, some metrics, and the time left.

    Args:
        shown: the metrics in order: name, label, format of the value.
    """

    def __init__(self, shown: Sequence[tuple[str, str, str]]) -> None:
        super().__init__()
        self.shown = shown
        self.console = Console(stderr=True)
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._last_line = self._started = 0.0
        self._first_step = 0
        self._enabled = True

    def disable(self) -> None:
        """Show nothing; Lightning calls this in all processes except the first."""
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started = self._last_line = time.monotonic()
        self._first_step = trainer.global_step
        if self._enabled and self.console.is_terminal:
            self._bar = Progress(
                TextColumn("training"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[metrics]}", markup=False),
                TextColumn("left"),
                TimeRemainingColumn(compact=True),
                console=self.console,
            )
            self._bar.start()
            self._task = self._bar.add_task("", total=trainer.max_steps, completed=trainer.global_step, metrics="")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if not self._enabled:
            return
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=trainer.global_step, metrics=self._metrics(trainer))
        elif time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            done = trainer.global_step - self._first_step
            left = (self._last_line - self._started) / max(done, 1) * (trainer.max_steps - trainer.global_step)
            print(
                f"step {trainer.global_step}/{trainer.max_steps}  {self._metrics(trainer)}  {left:.0f} s left",
                file=sys.stderr,
                flush=True,
            )

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print one line per validation, which stays above the bar."""
        if not self._enabled:
            return
        values = {n: float(v) for n, v in trainer.callback_metrics.items() if n.startswith("val/")}
        shown = "  ".join(f"{name.removeprefix('val/')} {value:.4g}" for name, value in values.items())
        text = f"validation at step {trainer.global_step}: {shown}"
        # rich would interpret a plain string as markup.
        self.console.print(Text(text), soft_wrap=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _metrics(self, trainer: Trainer) -> str:
        logged = getattr(trainer.lightning_module, "training_metrics", {})
        return "  ".join(f"{label} {logged[name]:{spec}}" for name, label, spec in self.shown if name in logged)
