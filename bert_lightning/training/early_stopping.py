"""Early stopping that still holds after a resume."""

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks.early_stopping import EarlyStopping, EarlyStoppingReason


class ResumableEarlyStopping(EarlyStopping):
    """Lightning's early stopping, which also stays stopped after a resume.

    Lightning's checkpoints hold only the number of validations without improvement. A run that was killed between
    the checkpoint of its last validation and its end would continue to train.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop before the first step if training had already stopped when the checkpoint was written."""
        self._stay_stopped(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop again: with `trainer.strategy` fsdp, Lightning reads the checkpoint only after `on_fit_start`."""
        self._stay_stopped(trainer)

    def _stay_stopped(self, trainer: Trainer) -> None:
        if self.stopping_reason != EarlyStoppingReason.NOT_STOPPED:
            trainer.should_stop = True
