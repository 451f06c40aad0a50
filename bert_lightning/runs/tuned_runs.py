"""Tuned runs over one base: their names, and the tensors that they share."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from bert_lightning.checkpoints.checkpoint import Checkpoint
from bert_lightning.errors import InputError
from bert_lightning.model.pretrained import PretrainedModel

Tunings = Sequence[str | Path] | Mapping[str, str | Path]
"""Tuned runs: a list of directories or checkpoint files, named by their last part, or a mapping name -> path."""


def named_runs(tuning: Tunings) -> dict[str, str | Path]:
    """Return the paths of tuned runs by name.

    Raises:
        InputError: there are none, or two have the same name.
    """
    if isinstance(tuning, Mapping):
        named = dict(tuning)
    else:
        paths = [tuning] if isinstance(tuning, str | Path) else list(tuning)
        names = [Path(path).absolute().name for path in paths]
        named = dict(zip(names, paths, strict=True))
        for name in names:
            if names.count(name) > 1:
                raise InputError(f"tuning has two runs named {name}: give a mapping from names to paths")
    if not named:
        raise InputError("tuning is empty; it must name one tuned run or more")
    return named


def share_base(
    model: PretrainedModel, checkpoint: Checkpoint, shared: dict[str, Tensor], device: torch.device
) -> None:
    """Move a model to a device, and let it use the tensors of its base that another model has there.

    Args:
        model: has the weights of the checkpoint.
        checkpoint: names the tensors that it took from its base.
        shared: the tensors of the base by name and type; this model's are added.
        device: where the model is used.
    """
    of_base = set(checkpoint.base.names) if checkpoint.base is not None else set()
    for name, parameter in model.named_parameters():
        key = f"{model.prefix}{name} {parameter.dtype}"
        if f"{model.prefix}{name}" in of_base:
            if key not in shared:
                shared[key] = parameter.data.to(device)
            parameter.data = shared[key]
    model.to(device)
