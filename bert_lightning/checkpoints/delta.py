"""Delta checkpoints: what was trained, and a reference to the base whose other tensors stayed as they were.

A run that tunes a frozen model would otherwise write the same weights into every checkpoint.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from bert_lightning.checkpoints import hub
from bert_lightning.checkpoints.checkpoint import WEIGHT_DTYPES, Base, Checkpoint
from bert_lightning.checkpoints.errors import CheckpointError

Read = Callable[[str | Path], Checkpoint]


def base_of(start: Checkpoint, frozen: Mapping[str, Tensor]) -> Base | None:
    """Describe the base of a training: which frozen tensors equal those of the checkpoint that it started from.

    If that checkpoint itself took tensors from a base, this returns the same base. So a base is never a delta.

    Args:
        start: the checkpoint, as it was read.
        frozen: tensors of the model that training leaves as they are, under our names.

    Returns:
        None if no tensor equals, as after a change of the type of the weights.
    """
    dtypes = {_name(tensor.dtype) for tensor in frozen.values()}
    if start.provenance is None or len(dtypes) != 1:
        return None
    [dtype] = dtypes
    candidates = start.base.names if start.base is not None else list(start.tensors)
    if start.base is not None and start.base.dtype != dtype:
        return None
    names = [name for name in candidates if name in frozen and _equal(start.tensors[name], frozen[name])]
    if not names:
        return None
    if start.base is not None:
        return replace(start.base, names=names)
    origin = start.provenance
    name = origin.name if origin.revision is None else hub.pinned(origin.name, origin.revision)
    return Base(name, str(start.path.absolute()), origin.digest, dtype, names)


def with_base(delta: Checkpoint, chosen: str | Path | None, read: Read) -> Checkpoint:
    """Return a delta checkpoint with the tensors of its base.

    Args:
        delta: holds what was trained.
        chosen: path or hub name of the base; None to look where it was when training began.
        read: reads a checkpoint.

    Raises:
        CheckpointError: there is no such base, or it has other weights. The message names it.
    """
    base, faults = delta.base, []
    assert base is not None, "the caller asks only for a delta"
    for place in [chosen] if chosen is not None else dict.fromkeys((base.path, base.name)):
        try:
            found = read(place)
        except CheckpointError as error:
            faults.append(str(error))
            continue
        digest = found.provenance.digest if found.provenance is not None else None
        if digest == base.digest:
            return joined(delta, base, found.tensors)
        faults.append(f"{place} has other weights (SHA-256 {str(digest)[:16]}, not {base.digest[:16]})")
    raise CheckpointError(
        f"{delta.path} holds only what was trained; the other weights are those of {base.name}, which is not found: "
        f"{'; '.join(faults)}. If it has moved, name it with --base (in Python: base=...)"
    )


def joined(delta: Checkpoint, base: Base, tensors: Mapping[str, Tensor]) -> Checkpoint:
    """Return a delta checkpoint with the tensors that it took from its base; `tensors` are those of the base.

    Raises:
        CheckpointError: the base lacks one of them, or the recorded type is not one that weights can have.
    """
    dtypes = {_name(dtype): dtype for dtype in WEIGHT_DTYPES}
    missing = [name for name in base.names if name not in tensors]
    if missing or base.dtype not in dtypes:
        reason = f"{base.name} has no tensor {missing[0]}" if missing else f"its base has the type {base.dtype}"
        raise CheckpointError(f"{delta.path} is not a checkpoint of bert_lightning: {reason}")
    dtype = dtypes[base.dtype]
    return replace(delta, tensors={**{name: tensors[name].to(dtype) for name in base.names}, **delta.tensors})


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one.to(other.dtype), other)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
