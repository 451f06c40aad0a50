"""Tensor parallelism: processes share the heads and widths of each block, and compute each of its products together.

Shoeybi et al. 2019 (Megatron-LM), arXiv 1909.08053, section 3. The first product of a pair gives each process some of
its columns, the second takes those up and its results are added up over the processes: one exchange each way.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from lightning import Trainer
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh


class Block(Protocol):
    """What of a Transformer block is shared out."""

    column_parallel: Mapping[str, int]
    """linear layers whose outputs are, by name, with how many matrices are stacked in each"""
    row_parallel: Sequence[str]
    """linear layers whose inputs are"""
    num_heads: int

    def draws_apart(self) -> AbstractContextManager[None]:
        """Around what draws for the block's own heads."""


class Slice(NamedTuple):
    """The part of a parameter that this process has of it."""

    dimension: int
    """0: output columns, which are rows of the matrix; 1: inputs"""
    num_stacked: int
    """matrices stacked in dimension 0, of each of which it has its part"""
    rank: int
    group: Any
    """of the processes that have the parts, in their order"""

    @property
    def size(self) -> int:
        """Processes."""
        return torch.distributed.get_world_size(self.group)

    def taken(self, whole: Tensor) -> Tensor:
        """The part of a whole tensor."""
        if self.dimension == 1:
            return whole.chunk(self.size, 1)[self.rank]
        return whole.unflatten(0, (self.num_stacked, -1)).chunk(self.size, 1)[self.rank].flatten(0, 1)

    def joined(self, part: Tensor) -> Tensor:
        """This process's part -> the whole tensor; called by all processes of the group."""
        parts = [torch.empty_like(part, memory_format=torch.contiguous_format) for _ in range(self.size)]
        torch.distributed.all_gather(parts, part.contiguous(), group=self.group)
        if self.dimension == 1:
            return torch.cat(parts, 1)
        return torch.cat([each.unflatten(0, (self.num_stacked, -1)) for each in parts], 1).flatten(0, 1)

    def whole_shape(self, part: Sequence[int]) -> tuple[int, ...]:
        """The shape of a part -> that of the whole."""
        return tuple(size * self.size if place == self.dimension else size for place, size in enumerate(part))


def slice_of(parameter: Tensor) -> Slice | None:
    """What this process has of a parameter; None where it is not shared out so."""
    return getattr(parameter, "tensor_slice", None)


def mark_slices(model: nn.Module) -> None:
    """Let each parameter that is a part know of it, once the model is wrapped and moved, which make new ones."""
    for module in model.modules():
        for name, part in getattr(module, "slices", {}).items():
            getattr(module, name).tensor_slice = part


def split(blocks: Sequence[Any], mesh: DeviceMesh) -> None:
    """Keep this process's heads and widths of each block, in place.

    Args:
        blocks: each a `Block`, whole and the same on every process.
        mesh: of one dimension: the processes that share them.
    """
    size, rank, group = mesh.size(), mesh.get_local_rank(), mesh.get_group()
    for block in blocks:
        for name, num_stacked in block.column_parallel.items():
            setattr(block, name, ColumnParallelLinear(getattr(block, name), Slice(0, num_stacked, rank, group)))
        for name in block.row_parallel:
            setattr(block, name, RowParallelLinear(getattr(block, name), Slice(1, 1, rank, group)))
        block.num_heads //= size
        block.draws_apart = lambda: _draws_of(rank)


class _ParallelLinear(nn.Module):
    """A linear layer of which this process has a part; parameters keep their names.

    Attributes:
        slices: of the parameters that are parts.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, whole: nn.Linear, slices: dict[str, Slice]) -> None:
        super().__init__()
        self.slices = slices
        for name, parameter in whole.named_parameters():
            part = slices[name].taken(parameter.detach()).clone() if name in slices else parameter.detach()
            self.register_parameter(name, nn.Parameter(part, requires_grad=parameter.requires_grad))


class ColumnParallelLinear(_ParallelLinear):
    """(..., I) on every process -> (..., O / P) on each."""

    def __init__(self, whole: nn.Linear, part: Slice) -> None:
        super().__init__(whole, {"weight": part, "bias": part})
        self.group = part.group

    def forward(self, hidden: Tensor) -> Tensor:
        """This process's outputs; gradients of the inputs are added up over processes."""
        return F.linear(_Shared.apply(hidden, self.group), self.weight, self.bias)


class RowParallelLinear(_ParallelLinear):
    """(..., I / P) on each process -> (..., O) on every one."""

    def __init__(self, whole: nn.Linear, part: Slice) -> None:
        super().__init__(whole, {"weight": part})
        self.group = part.group

    def forward(self, hidden: Tensor) -> Tensor:
        """The outputs, added up over processes."""
        product = _Summed.apply(F.linear(hidden, self.weight), self.group)
        return product + self.bias.to(product.dtype)


class _Shared(torch.autograd.Function):
    """Itself; backward the sum of all processes' gradients. `f` of the paper's figure 3."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, group: Any) -> Tensor:
        ctx.group = group
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return _all_reduced(gradients[0], ctx.group), None


class _Summed(torch.autograd.Function):
    """The sum over all processes; backward itself. `g` of the paper's figure 3."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, group: Any) -> Tensor:
        return _all_reduced(values, group)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0], None


def _all_reduced(values: Tensor, group: Any) -> Tensor:
    total = values.clone(memory_format=torch.contiguous_format)
    torch.distributed.all_reduce(total, group=group)
    return total


@contextmanager
def _draws_of(rank: int) -> Iterator[None]:
    """Numbers of this process's own in here; behind it all processes draw the same again."""
    seed = int(torch.randint(2**62, ()))
    with torch.random.fork_rng([torch.cuda.current_device()] if torch.cuda.is_initialized() else []):
        torch.manual_seed(seed + rank)
        yield


def data_rank(trainer: Trainer) -> tuple[int, int]:
    """Which share of each batch this process computes, and of how many; those that share tensors compute the same."""
    size = getattr(trainer.strategy, "tensor_parallel", 1)
    return trainer.global_rank // size, trainer.world_size // size
