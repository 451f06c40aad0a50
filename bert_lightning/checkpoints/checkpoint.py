"""A checkpoint as plain values, independent of the program that wrote it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bert_lightning.checkpoints.errors import CheckpointError
from bert_lightning.checkpoints.provenance import Provenance
from bert_lightning.checkpoints.tokenizers.tokenizer_files import Vocabulary


@dataclass(frozen=True)
class Base:
    """The checkpoint from which another one took some of its tensors, bit for bit.

    Attributes:
        name: path or hub name, as the user gave it.
        path: absolute path of the file or folder that was read.
        digest: SHA-256 of the base's weights, all of them (`weights_digest`).
        dtype: the type that the tensors were converted to, such as `float32`.
        names: the tensors that were taken.
    """

    name: str
    path: str
    digest: str
    dtype: str
    names: Sequence[str]


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint, under our names.

    Attributes:
        path: the file or folder it was read from.
        config: the architecture, keys as in `BertConfig`.
        tensors: parameter name -> tensor. Names of the encoder begin with `encoder.`, those of heads do not.
        vocabulary: entries and settings of its tokenizer, if the checkpoint has them.
        task: the task that wrote it (`pretraining`, `text-classification`, ...), if known.
        module: the user's module that registers the task; None for the tasks of this package.
        task_settings: settings with which that task can predict again (labels, columns, lengths).
        architecture: transformers' class of the same shape, if known.
        provenance: the origin of the checkpoint; `read_checkpoint` sets it.
        tuning: name and settings of the tuning whose added parameters are among the tensors; None for a plain model.
        base: where the tensors come from that are not in the file, if the file holds only what was trained.
    """

    path: Path
    config: dict[str, Any]
    tensors: dict[str, Tensor]
    vocabulary: Vocabulary | None = None
    task: str | None = None
    task_settings: dict[str, Any] = field(default_factory=dict)
    architecture: str | None = None
    provenance: Provenance | None = None
    module: str | None = None
    tuning: dict[str, Any] | None = None
    base: Base | None = None


WEIGHT_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def require_weights(tensors: dict[str, Tensor], path: Path) -> None:
    """Refuse tensors that cannot be weights, such as those of a damaged file or a diverged training.

    Raises:
        CheckpointError: a tensor is not dense and floating-point, or holds values that are not finite. The message
            names it.
    """
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.dtype not in WEIGHT_DTYPES:
            layout = "" if tensor.layout == torch.strided else f"{str(tensor.layout).removeprefix('torch.')} of "
            kind = f"{layout}{str(tensor.dtype).removeprefix('torch.')} on {tensor.device.type}"
            raise CheckpointError(f"{path}: {name} is not a plain floating-point tensor ({kind})")
        if not tensor.isfinite().all():
            raise CheckpointError(f"{path}: {name} holds values that are not finite")
