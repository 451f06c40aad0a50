"""A checkpoint as plain values, whatever system wrote it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bert_lightning.checkpoints.errors import CheckpointError
from bert_lightning.checkpoints.provenance import Provenance
from bert_lightning.checkpoints.tokenizers.tokenizer_files import Vocabulary


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds, in our own names.

    Attributes:
        path: the file or folder it was read from.
        config: the architecture, keys as in `BertConfig`.
        tensors: parameter name -> tensor; names as in `BertEncoder` behind `encoder.`, heads beside it.
        vocabulary: what its tokenizer needs, if the checkpoint carries it.
        task: the task that wrote it (`pretraining`, `text-classification`, ...), if known.
        task_settings: what that task needs to predict again (labels, columns, lengths).
        architecture: transformers' class of the same shape, if known.
        provenance: where it came from; `read_checkpoint` fills it in.
    """

    path: Path
    config: dict[str, Any]
    tensors: dict[str, Tensor]
    vocabulary: Vocabulary | None = None
    task: str | None = None
    task_settings: dict[str, Any] = field(default_factory=dict)
    architecture: str | None = None
    provenance: Provenance | None = None


WEIGHT_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def require_weights(tensors: dict[str, Tensor], path: Path) -> None:
    """Refuse what is no weight, and what a damaged file or a diverged training leaves.

    Raises:
        CheckpointError: a tensor is not a dense one of floating-point numbers, or holds values that are not finite;
            the message names it.
    """
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.dtype not in WEIGHT_DTYPES:
            layout = "" if tensor.layout == torch.strided else f"{str(tensor.layout).removeprefix('torch.')} of "
            kind = f"{layout}{str(tensor.dtype).removeprefix('torch.')} on {tensor.device.type}"
            raise CheckpointError(f"{path}: {name} is no plain floating-point tensor ({kind})")
        if not tensor.isfinite().all():
            raise CheckpointError(f"{path}: {name} holds values that are not finite")
