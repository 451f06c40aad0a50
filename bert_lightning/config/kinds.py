"""The kinds of objects that an experiment may name: callbacks and loggers."""

from bert_lightning.config.objects import Kind

CALLBACK = Kind(
    word="callback",
    base="lightning.pytorch.callbacks.Callback",
    package="lightning.pytorch.callbacks",
    refused={
        "BackboneFinetuning": "is not used here: set freeze.unfreeze_every",
        "BasePredictionWriter": "does nothing in training: use the command predict",
        "BatchSizeFinder": "is not used here: set trainer.accumulate_grad_batches to auto",
        "EarlyStopping": "forgets on a resume that it has stopped training: set early_stopping.patience, or name "
        "bert_lightning.training.early_stopping.ResumableEarlyStopping",
        "GradientAccumulationScheduler": "is not used here: set trainer.accumulate_grad_batches",
        "LearningRateFinder": "is not used here: set optimizer.learning_rate",
        "ModelCheckpoint": "is not used here: set checkpoint.every_n_steps, checkpoint.keep_last and "
        "checkpoint.monitor",
        "ModelPruning": "renames the parameters, so that no other command could read the checkpoints",
        "OnExceptionCheckpoint": "is not used here: checkpoint.every_n_steps keeps the work of a run that fails",
        "SpikeDetection": "needs one loss per micro-batch: set trainer.non_finite",
        "StochasticWeightAveraging": "counts epochs, but a training here is one epoch: name WeightAveraging or "
        "EMAWeightAveraging, and set schedule",
        "ThroughputMonitor": "is not used here: train/tokens_per_second and train/mfu are logged always",
        "Timer": "would end the run as if it were finished: set trainer.max_steps, or send SIGTERM (`timeout 4h "
        "bert-lightning fit ...`), after which the same command resumes",
    },
)
"""An entry of `callbacks`."""

LOGGER = Kind(
    word="logger",
    base="lightning.pytorch.loggers.logger.Logger",
    package="lightning.pytorch.loggers",
    refused={"WandbLogger": "is not used here: name wandb, whose settings are under wandb"},
    names=("wandb", "tensorboard", "csv", "mlflow"),
    given=("save_dir",),
)
"""An entry of `loggers`."""

OBJECT_LISTS = {"callbacks": CALLBACK, "loggers": LOGGER}
"""The keys that hold lists of objects."""
