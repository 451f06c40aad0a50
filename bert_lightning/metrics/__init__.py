"""Metrics that torchmetrics lacks: the official scorers as plain functions, and Metrics that reduce over ranks."""
