"""Checkpoints of every form as plain configuration, names and tensors; independent of the rest of the package."""
