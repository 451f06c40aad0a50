"""Validation after the last step."""

from lightning import Callback, LightningModule, Trainer


class ValidationAtEnd(Callback):
    """A callback that makes Lightning validate after the last step too, at any validation interval."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Make Lightning validate after this step if it is the last one. Lightning decides after this call."""
        is_last = trainer.global_step >= trainer.max_steps
        if is_last and trainer.enable_validation:
            trainer.val_check_batch = trainer.fit_loop.total_batch_idx + 1
