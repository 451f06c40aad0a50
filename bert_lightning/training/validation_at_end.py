"""Validation after the last step, whatever the interval."""

from typing import Any

from lightning import Callback, LightningModule, Trainer


class ValidationAtEnd(Callback):
    """Lightning validates every n steps; this makes the last step one of them."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Runs before Lightning asks whether this step is one to validate after."""
        is_last = trainer.global_step >= trainer.max_steps
        if is_last and trainer.enable_validation:
            trainer.val_check_batch = trainer.fit_loop.total_batch_idx + 1
