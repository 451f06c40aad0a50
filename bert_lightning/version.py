"""The version of the package, which imports nothing else."""

__version__ = "0.1.0"
