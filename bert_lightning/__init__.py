"""bert_lightning: pre-train, fine-tune, ablate and report BERT-style encoders on PyTorch Lightning."""

from typing import Any

from bert_lightning.version import __version__

__all__ = ["__version__", "load"]


def __getattr__(name: str) -> Any:
    # Torch takes seconds to import, which `bert-lightning --help` need not wait for.
    if name == "load":
        from bert_lightning.runs.predictor import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
