"""Metrics that torchmetrics lacks; each reduces correctly over ranks."""
