"""bert_lightning: pre-train, fine-tune, ablate and report BERT-style encoders on PyTorch Lightning."""

from bert_lightning.version import __version__

__all__ = ["__version__"]
