"""The tasks, one folder per task: settings, data, LightningModule and description."""
