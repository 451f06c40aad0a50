"""LightningModules, one a task: encoder, head, loss and metrics."""
