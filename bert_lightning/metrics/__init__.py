"""Metrics that torchmetrics lacks: official scorers as plain functions, and metrics that are reduced over ranks."""
