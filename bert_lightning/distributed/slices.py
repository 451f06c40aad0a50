"""Tensors whose rows are shared out over processes, as FSDP2 keeps parameters, gradients and optimiser states.

With tensor parallelism the rows are those of a part of the tensor (`distributed/tensor_parallel.py`). Everything here
takes whole tensors too, and then is what it would be without processes.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from bert_lightning.distributed.tensor_parallel import Slice, slice_of


def local(tensor: Tensor) -> Tensor:
    """The rows of this process, sharing memory; a whole tensor itself."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def rows_for(whole: Tensor, parameter: Tensor) -> Tensor:
    """The rows of a whole tensor that this process keeps of a parameter of its shape; all where that is whole."""
    if not isinstance(parameter, DTensor):
        return whole
    part = slice_of(parameter)
    return _own_rows(part.taken(whole) if part is not None else whole, parameter)


def _own_rows(every: Tensor, parameter: DTensor) -> Tensor:
    # As `torch.distributed.tensor.Shard(0)` shares them out: the last processes may have fewer, or none.
    pieces, rank = every.chunk(parameter.device_mesh.size()), parameter.device_mesh.get_local_rank()
    return pieces[rank] if rank < len(pieces) else every[:0]


def place(parameter: DTensor, part: Slice) -> tuple[Tensor, tuple[int, int] | None]:
    """Where this process's rows of a part stand in the whole tensor: (r,) row numbers, and its columns if not all."""
    rows, *widths = whole_shape(parameter)
    numbers = torch.arange(rows)
    if part.dimension == 0:
        return _own_rows(part.taken(numbers), parameter), None
    width = widths[0] // part.size
    return _own_rows(numbers, parameter), (part.rank * width, (part.rank + 1) * width)


def with_all_rows(rows: Tensor, parameter: Tensor) -> Tensor:
    """This process's rows of a tensor shared out as a parameter is -> the tensor, or part, with all rows."""
    if not isinstance(parameter, DTensor) or isinstance(rows, DTensor):
        return rows
    layout = parameter.device_mesh, parameter.placements
    return DTensor.from_local(rows, *layout, run_check=False, shape=parameter.shape, stride=parameter.stride())


def whole(rows: Tensor, parameter: Tensor) -> Tensor:
    """This process's rows of a tensor shared out as a parameter is -> all of them; called by all processes."""
    every, part = with_all_rows(rows, parameter), slice_of(parameter)
    every = every.full_tensor() if isinstance(every, DTensor) else every
    return part.joined(every) if part is not None else every


def whole_shape(parameter: Tensor) -> tuple[int, ...]:
    """The shape of a parameter, whatever this process has of it."""
    part = slice_of(parameter)
    return part.whole_shape(parameter.shape) if part is not None else tuple(parameter.shape)


def _summed(values: Tensor, like: Sequence[Tensor]) -> Tensor:
    """(n,) a value of this process for each tensor of `like`, added up over the processes that share it."""
    parameter = next((each for each in like if isinstance(each, DTensor)), None)
    if parameter is not None and parameter.device_mesh.size() > 1:
        torch.distributed.all_reduce(values, group=parameter.device_mesh.get_group())
    parts = {number: part for number, each in enumerate(like) if (part := slice_of(each)) is not None}
    if parts:
        numbers = list(parts)
        shared = values[numbers]
        torch.distributed.all_reduce(shared, group=parts[numbers[0]].group)
        values[numbers] = shared
    return values


def norms(rows: Sequence[Tensor], like: Sequence[Tensor]) -> Tensor:
    """(n,) Euclidean norms of tensors given by this process's rows, in float32 at least.

    Args:
        rows: what this process has of each.
        like: parameters that are shared out as they are.
    """
    dtype = torch.promote_types(rows[0].dtype, torch.float32)
    own: Any = torch.stack(list(torch._foreach_norm(list(rows), 2, dtype)))
    return _summed(own.square(), like).sqrt() if any(isinstance(each, DTensor) for each in like) else own
