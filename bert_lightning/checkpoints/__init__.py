"""Checkpoints of every form as plain configuration, names and tensors. Imports nothing else of this package."""
