"""A framework that pre-trains, fine-tunes, scores and reports BERT-style encoders on PyTorch Lightning.

`load` opens a trained run or checkpoint for predictions on raw input. Import everything else from its own module, or
use the command `bert-lightning`.
"""

from typing import TYPE_CHECKING

from bert_lightning.version import __version__

if TYPE_CHECKING:
    from bert_lightning.runs.predictor import load

__all__ = ["__version__", "load"]


def __getattr__(name: str) -> object:
    # Importing torch takes seconds, and `bert-lightning --help` does not need it.
    if name == "load":
        from bert_lightning.runs.predictor import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
