"""What all fine-tuning tasks share: their data, their LightningModule, and heads that choose one class."""
