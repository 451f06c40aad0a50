"""Slices of tensors: what one process holds of parameters, gradients and optimiser states.

FSDP2 gives each process some rows of a tensor. With tensor parallelism, the tensor is first cut into the slices of
`distributed/tensor_parallel.py`, and FSDP2 then cuts the rows of each. All functions except `rows_and_columns` take
whole tensors too, because a single process holds everything.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from bert_lightning.distributed.collectives import sum_over_processes
from bert_lightning.distributed.tensor_parallel import Slice, slice_of


def local(tensor: Tensor) -> Tensor:
    """Return this process's slice of a tensor, in the same memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def slice_for(whole: Tensor, parameter: Tensor) -> Tensor:
    """Cut this process's slice of a parameter out of a whole tensor of the parameter's shape."""
    if not isinstance(parameter, DTensor):
        return whole
    tensor_slice = slice_of(parameter)
    return _own_rows(tensor_slice.cut(whole) if tensor_slice is not None else whole, parameter)


def _own_rows(rows: Tensor, parameter: DTensor) -> Tensor:
    # `torch.distributed.tensor.Shard(0)` cuts them in this way: the last processes may have fewer rows, or none.
    chunks, rank = rows.chunk(parameter.device_mesh.size()), parameter.device_mesh.get_local_rank()
    return chunks[rank] if rank < len(chunks) else rows[:0]


def rows_and_columns(parameter: DTensor, tensor_slice: Slice) -> tuple[Tensor, tuple[int, int] | None]:
    """Return the rows and columns of the whole tensor that this process's slice holds.

    Returns:
        The (r,) numbers of the rows, and the first column and the one after the last; None for all columns.
    """
    num_rows, *widths = whole_shape(parameter)
    numbers = torch.arange(num_rows)
    if tensor_slice.dimension == 0:
        return _own_rows(tensor_slice.cut(numbers), parameter), None
    width = widths[0] // tensor_slice.size
    return _own_rows(numbers, parameter), (tensor_slice.rank * width, (tensor_slice.rank + 1) * width)


def as_distributed(values: Tensor, parameter: Tensor) -> Tensor:
    """Wrap this process's slice in a tensor that is distributed like a parameter, without copying it."""
    if not isinstance(parameter, DTensor) or isinstance(values, DTensor):
        return values
    layout = parameter.device_mesh, parameter.placements
    return DTensor.from_local(values, *layout, run_check=False, shape=parameter.shape, stride=parameter.stride())


def whole(values: Tensor, parameter: Tensor) -> Tensor:
    """Gather the whole tensor from slices that are cut like a parameter; called by all processes."""
    rows, tensor_slice = as_distributed(values, parameter), slice_of(parameter)
    rows = rows.full_tensor() if isinstance(rows, DTensor) else rows
    return tensor_slice.join(rows) if tensor_slice is not None else rows


def whole_shape(parameter: Tensor) -> tuple[int, ...]:
    """Return the shape of a whole parameter, even if this process holds only a slice of it."""
    tensor_slice = slice_of(parameter)
    return tensor_slice.whole_shape(parameter.shape) if tensor_slice is not None else tuple(parameter.shape)


def norms(slices: Sequence[Tensor], like: Sequence[Tensor]) -> Tensor:
    """Return (n,) Euclidean norms of whole tensors, in float32 at least; called by all processes.

    Args:
        slices: what this process holds of each tensor.
        like: parameters that are cut in the same way.
    """
    dtype = torch.promote_types(slices[0].dtype, torch.float32)
    of_slices = torch.stack(list(torch._foreach_norm(list(slices), 2, dtype)))
    is_distributed = any(isinstance(each, DTensor) for each in like)
    return _summed(of_slices.square(), like).sqrt() if is_distributed else of_slices


def sums_of_slices(sums: Sequence[Tensor], like: Sequence[Tensor]) -> Tensor:
    """Return (n,) sums over whole tensors, given the sum () over this process's slice of each; called by all.

    Args:
        sums: one for each tensor.
        like: parameters that are cut in the same way.
    """
    return _summed(torch.stack(list(sums)), like)


def _summed(values: Tensor, like: Sequence[Tensor]) -> Tensor:
    """Add up (n,) values, one for each tensor of `like`, over the processes that hold slices of it."""
    parameter = next((each for each in like if isinstance(each, DTensor)), None)
    if parameter is not None:
        values = sum_over_processes(values, parameter.device_mesh.get_group())
    slices = {number: own for number, each in enumerate(like) if (own := slice_of(each)) is not None}
    if slices:
        numbers = list(slices)
        values[numbers] = sum_over_processes(values[numbers], slices[numbers[0]].group)
    return values
