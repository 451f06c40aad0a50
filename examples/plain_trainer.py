"""Training in Python: the whole run as the command does it, and the two objects in a plain Trainer."""

import lightning
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

import bert_lightning

# The whole run: directory, checkpoints, resuming, manifest.
run = bert_lightning.fit("base.yaml", {"trainer.max_epochs": 1}, run_directory="runs/whole")
print(run.directory, run.metrics)

# The same task and data. Everything else is as in any Lightning program.
task, data = bert_lightning.build("base.yaml")
trainer = lightning.Trainer(
    max_epochs=1,
    accelerator="cpu",
    default_root_dir="runs/plain",
    logger=False,
    callbacks=[EarlyStopping("val/loss", patience=3), ModelCheckpoint(monitor="val/accuracy", mode="max")],
)
trainer.fit(task, data)
[metrics] = trainer.test(task, data)
print(metrics)

# A checkpoint that the plain Trainer wrote predicts too.
model = bert_lightning.load(trainer.checkpoint_callback.best_model_path)
print(model.predict(["The soup was excellent."]))
