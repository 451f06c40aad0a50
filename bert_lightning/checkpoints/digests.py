"""The SHA-256 of a model's weights: the same in the manifest, in `reproduce`, and on the model card."""

import hashlib

import torch
from torch import Tensor

# Our checkpoint files put this before the names of a model's tensors.
PREFIX = "model."


def weights_digest(tensors: dict[str, Tensor]) -> str:
    """Return the SHA-256, in hexadecimal, over name, type, shape and bytes of each tensor, in order of names.

    Args:
        tensors: the weights under our names, without the prefix `model.`.

    >>> weights_digest({"bias": torch.zeros(2)})[:16]
    '25afa8cb5bb33b2b'
    """
    return _digest(tensors)


def current_form(recorded: str, tensors: dict[str, Tensor]) -> str:
    """Convert a recorded digest to today's form if it belongs to these weights, else return it unchanged.

    Earlier versions had two other forms: names with the prefix `model.` in a manifest's `weights`, and names and
    bytes alone in a manifest's `data.model`.

    Args:
        recorded: a digest from a manifest, of today's form or an earlier one.
        tensors: the weights to compare with.
    """
    current = _digest(tensors)
    if recorded == current or recorded in (_digest(tensors, prefix=PREFIX), _digest(tensors, described=False)):
        return current
    return recorded


def _digest(tensors: dict[str, Tensor], *, prefix: str = "", described: bool = True) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        header = f"{prefix}{name} {tensor.dtype} {list(tensor.shape)}\n" if described else name
        digest.update(header.encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
