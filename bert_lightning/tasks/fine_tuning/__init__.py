"""The base of all fine-tuning tasks: settings, splits, data module and LightningModule."""
