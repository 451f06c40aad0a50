"""Collective operations: values of all processes, gathered or reduced.

All processes of the group must call them, in the same order. A single process gets its own value back.

A *share* is what one process computes of a batch. With tensor parallelism several processes compute the same share,
so their values count once.
"""

from typing import NamedTuple, TypeVar

import torch
from lightning import Trainer
from torch import Tensor
from torch.distributed import ProcessGroup, ReduceOp

Value = TypeVar("Value")


class DataRank(NamedTuple):
    """The share of each batch that this process computes, from 0, and the number of shares."""

    rank: int
    num_shares: int


def data_rank(trainer: Trainer) -> DataRank:
    """Return the share of each batch that this process computes."""
    size = getattr(trainer.strategy, "tensor_parallel", 1)
    return DataRank(trainer.global_rank // size, trainer.world_size // size)


def process_rank() -> int:
    """Return the number of this process, from 0."""
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


def num_processes(group: ProcessGroup | None = None) -> int:
    """Return the number of processes: of a group, or of all."""
    return torch.distributed.get_world_size(group) if torch.distributed.is_initialized() else 1


def gather_objects(value: Value) -> list[Value]:
    """Gather a Python value of each process, in order of rank."""
    if num_processes() == 1:
        return [value]
    values: list[Value] = [value] * num_processes()
    torch.distributed.all_gather_object(values, value)
    return values


def gather_tensors(values: Tensor, group: ProcessGroup | None = None) -> list[Tensor]:
    """Gather tensors of one shape, in order of rank."""
    if num_processes(group) == 1:
        return [values]
    gathered = [torch.empty_like(values, memory_format=torch.contiguous_format) for _ in range(num_processes(group))]
    torch.distributed.all_gather(gathered, values.contiguous(), group=group)
    return gathered


def sum_over_processes(values: Tensor, group: ProcessGroup | None = None) -> Tensor:
    """Add up tensors of one shape."""
    if num_processes(group) == 1:
        return values
    total = values.clone(memory_format=torch.contiguous_format)
    torch.distributed.all_reduce(total, group=group)
    return total


def sum_over_shares(values: Tensor, num_shares: int) -> Tensor:
    """Add up tensors of one shape over the shares of a batch."""
    is_first_of_share = process_rank() % (num_processes() // num_shares) == 0
    return sum_over_processes(values if is_first_of_share else torch.zeros_like(values))


def gather_shares(values: Tensor, num_shares: int) -> Tensor:
    """Stack tensors of one shape over the shares of a batch: (num_shares, ...)."""
    return torch.stack(gather_tensors(values)[:: num_processes() // num_shares])


def holds_everywhere(condition: Tensor) -> Tensor:
    """Return whether a condition, () bool, holds in every process."""
    if num_processes() == 1:
        return condition
    flag = condition.float()
    torch.distributed.all_reduce(flag, op=ReduceOp.MIN)
    return flag > 0


def largest_number(number: int, group: ProcessGroup | None = None) -> int:
    """Return the largest of the processes' numbers, which are exchanged as CPU tensors."""
    if num_processes(group) == 1:
        return number
    values = torch.tensor(number)
    torch.distributed.all_reduce(values, op=ReduceOp.MAX, group=group)
    return int(values)
