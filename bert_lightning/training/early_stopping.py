"""Early stopping that a resumed run keeps to."""

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks.early_stopping import EarlyStopping, EarlyStoppingReason


class ResumableEarlyStopping(EarlyStopping):
    """Lightning's, whose checkpoints hold the patience used up, and which stays stopped.

    A run that was killed between the checkpoint of its last validation and its end would otherwise train on.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop before the first step where the checkpoint says that training was over."""
        self._stay_stopped(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """As above: with `trainer.strategy` fsdp, Lightning reads the checkpoint behind it."""
        self._stay_stopped(trainer)

    def _stay_stopped(self, trainer: Trainer) -> None:
        if self.stopping_reason != EarlyStoppingReason.NOT_STOPPED:
            trainer.should_stop = True
