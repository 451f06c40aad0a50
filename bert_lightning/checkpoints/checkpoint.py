"""A checkpoint as plain values, whatever system wrote it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor


class CheckpointError(ValueError):
    """A checkpoint that cannot be read; the message names the file, and the tensor where there is one."""


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds, in our own names.

    Attributes:
        path: the file or folder it was read from.
        config: the architecture, keys as in `BertConfig`.
        tensors: parameter name -> tensor; names as in `BertEncoder` behind `encoder.`, heads beside it.
        vocabulary: WordPiece entries in id order, if the checkpoint carries them.
        lowercase: whether the tokenizer lower-cases, if known.
        task: the task that wrote it (`pretraining`, `text-classification`, ...), if known.
        task_settings: what that task needs to predict again (labels, columns, lengths).
    """

    path: Path
    config: dict[str, Any]
    tensors: dict[str, Tensor]
    vocabulary: list[str] | None = None
    lowercase: bool | None = None
    task: str | None = None
    task_settings: dict[str, Any] = field(default_factory=dict)
