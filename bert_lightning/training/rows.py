"""Tensors whose rows are shared out over processes, as FSDP2 keeps parameters, gradients and optimiser states.

Everything here takes whole tensors too, and then is what it would be without processes.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor


def local(tensor: Tensor) -> Tensor:
    """The rows of this process, sharing memory; a whole tensor itself."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def rows_for(whole: Tensor, parameter: Tensor) -> Tensor:
    """The rows of a whole tensor that this process keeps of a parameter of its shape; all where that is whole."""
    if not isinstance(parameter, DTensor):
        return whole
    # As `torch.distributed.tensor.Shard(0)` shares them out: the last processes may have fewer, or none.
    pieces, rank = whole.chunk(parameter.device_mesh.size()), parameter.device_mesh.get_local_rank()
    return pieces[rank] if rank < len(pieces) else whole[:0]


def with_all_rows(rows: Tensor, parameter: Tensor) -> Tensor:
    """This process's rows of a tensor shared out as a parameter is -> the tensor as one that knows all its rows."""
    if not isinstance(parameter, DTensor) or isinstance(rows, DTensor):
        return rows
    layout = parameter.device_mesh, parameter.placements
    return DTensor.from_local(rows, *layout, run_check=False, shape=parameter.shape, stride=parameter.stride())


def whole(rows: Tensor, parameter: Tensor) -> Tensor:
    """This process's rows of a tensor shared out as a parameter is -> all of them; called by all processes."""
    every = with_all_rows(rows, parameter)
    return every.full_tensor() if isinstance(every, DTensor) else every


def summed(values: Tensor, like: Sequence[Tensor]) -> Tensor:
    """Values of this process added up over those that share the rows of `like`."""
    parameter = next((each for each in like if isinstance(each, DTensor)), None)
    if parameter is not None and parameter.device_mesh.size() > 1:
        torch.distributed.all_reduce(values, group=parameter.device_mesh.get_group())
    return values


def norms(rows: Sequence[Tensor], like: Sequence[Tensor]) -> Tensor:
    """(n,) Euclidean norms of tensors given by this process's rows, in float32 at least.

    Args:
        rows: what this process has of each.
        like: parameters that are shared out as they are.
    """
    dtype = torch.promote_types(rows[0].dtype, torch.float32)
    own: Any = torch.stack(list(torch._foreach_norm(list(rows), 2, dtype)))
    return summed(own.square(), like).sqrt() if any(isinstance(each, DTensor) for each in like) else own
