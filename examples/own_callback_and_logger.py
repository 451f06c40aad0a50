"""A custom callback and a custom logger: the distance of the weights from the start, and a table in Markdown."""

from pathlib import Path

import torch
from lightning import Callback
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only


class Distance(Callback):
    """The distance of the weights from those at the start, as `train/distance`.

    The state holds what the callback needs to resume: plain values and tensors.
    """

    def __init__(self, every=5):
        self.every, self.start = every, None

    def on_train_start(self, trainer, task):
        self.start = self.start if self.start is not None else _weights(task)

    def on_train_batch_end(self, trainer, task, outputs, batch, number):
        if trainer.global_step % self.every == 0:
            distance = torch.linalg.vector_norm(_weights(task) - self.start)
            for logger in trainer.loggers:
                logger.log_metrics({"train/distance": float(distance)}, trainer.global_step)

    def state_dict(self):
        return {"start": self.start}

    def load_state_dict(self, state):
        self.start = state["start"]


def _weights(task):
    return torch.cat([parameter.detach().cpu().flatten() for parameter in task.model.parameters()])


class MarkdownTable(Logger):
    """One row per metric: step, name, value. `save_dir` is the run's directory by default."""

    name, version = "markdown", ""

    def __init__(self, save_dir, only="val/"):
        super().__init__()
        self.path, self.only = Path(save_dir) / "metrics.md", only

    @rank_zero_only
    def log_metrics(self, metrics, step=None):
        with open(self.path, "a") as file:
            file.writelines(f"| {step} | {n} | {v:.4f} |\n" for n, v in metrics.items() if n.startswith(self.only))

    def log_hyperparams(self, *args, **kwargs):
        """Do nothing, because `config.yaml` has the settings."""
