"""The base of tasks that pass metrics to callbacks, progress bars and loggers, with the step of the optimiser."""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from bert_lightning.distributed.collectives import process_rank

log = logging.getLogger(__name__)

ProgressColumn = tuple[str, str, str]
"""A metric in the progress bar: its name, its label, the format of its value."""
_LOSS_COLUMN: ProgressColumn = ("train/loss", "loss", ".3f")
_SPEED_COLUMNS: Sequence[ProgressColumn] = (
    ("train/tokens_per_second", "tok/s", ",.0f"),
    ("train/mfu", "MFU", ".0%"),
)


class LoggedTask(LightningModule):
    """The part of a task that passes metrics on.

    Attributes:
        warned: the messages of `warn_once` so far.
    """

    progress_scores: Sequence[ProgressColumn] = ()
    """The task's own metrics in the progress bar, between the loss and the speed."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.warned: set[str] = set()

    @property
    def shown(self) -> Sequence[ProgressColumn]:
        """The metrics in the progress bar."""
        return (_LOSS_COLUMN, *self.progress_scores, *_SPEED_COLUMNS)

    def show(self, metrics: dict[str, float]) -> None:
        """Show training metrics to callbacks and progress bars. `self.log` would take time in every step."""
        tensors = {name: torch.tensor(value, dtype=torch.float64) for name, value in metrics.items()}
        self.trainer.callback_metrics.update(tensors)
        self.trainer.logged_metrics.update(tensors)
        shown = {name: metrics[name] for name, _, _ in self.shown if name in metrics}
        self.trainer.progress_bar_metrics.update(shown)

    def log_split(self, values: dict[str, Tensor]) -> None:
        """Log the scores of a whole split, already reduced over processes, at the current step."""
        is_fitting = self.trainer.state.fn == TrainerFn.FITTING
        self.log_dict(values, logger=False if is_fitting else None)
        if is_fitting:
            # Lightning would log these values with its own count of steps.
            self.trainer.logged_metrics.update(values)
            self.metrics_to_loggers({name: float(value) for name, value in values.items()}, self.trainer.global_step)

    def warn_once(self, message: str) -> None:
        """Log a warning in the first process, unless this task has logged it before."""
        if message not in self.warned and process_rank() == 0:
            log.warning("%s", message)
        self.warned.add(message)

    def metrics_to_loggers(self, metrics: dict[str, float], step: int) -> None:
        for logger in self.trainer.loggers:
            logger.log_metrics(metrics, step)
