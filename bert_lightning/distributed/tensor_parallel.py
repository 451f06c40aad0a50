"""Tensor parallelism: processes split the heads and inner widths of each block, and compute each product together.

Shoeybi et al. 2019 (Megatron-LM), arXiv 1909.08053, section 3. Products come in pairs. The first one is
column-parallel: each process computes some of its outputs. The second one is row-parallel: it takes those as its
inputs, and its outputs are added up over the processes. A pair needs one exchange forward and one backward.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import DeviceMesh

from bert_lightning.distributed.collectives import gather_tensors, num_processes, sum_over_processes


class Block(Protocol):
    """The attributes of a Transformer block that `split` needs."""

    column_parallel: Mapping[str, int]
    """column-parallel linear layers: name -> number of matrices stacked in it"""
    row_parallel: Sequence[str]
    """names of row-parallel linear layers"""
    num_heads: int
    draws_apart: Callable[[], AbstractContextManager[None]]
    """returns a context in which each process draws different random numbers, because it holds different heads"""


class LowRank(Protocol):
    """The addition of low-rank factors to a linear layer, for the parameters `lora_a` and `lora_b`."""

    @property
    def dropout(self) -> float:
        """The dropout rate of the input."""

    @property
    def num_adapted(self) -> int:
        """The number of matrices stacked in B. Its rows are outputs of the layer; the columns of A are its inputs."""

    def __call__(self, hidden: Tensor, a: Tensor, b: Tensor, *, training: bool) -> Tensor:
        """Return what is added to the output, (..., I) -> (..., O)."""


class Slice(NamedTuple):
    """The slice of a parameter that this process holds under tensor parallelism."""

    dimension: int
    """0: outputs, which are rows of the matrix; 1: inputs, which are columns"""
    num_stacked: int
    """matrices stacked in dimension 0; the slice holds a slice of each"""
    rank: int
    group: ProcessGroup
    """the processes that hold the slices, in order"""

    @property
    def size(self) -> int:
        """The number of slices."""
        return num_processes(self.group)

    def cut(self, whole: Tensor) -> Tensor:
        """Cut the slice out of a whole tensor."""
        if self.dimension == 1:
            return whole.chunk(self.size, 1)[self.rank]
        return whole.unflatten(0, (self.num_stacked, -1)).chunk(self.size, 1)[self.rank].flatten(0, 1)

    def join(self, values: Tensor) -> Tensor:
        """Join the slices of all processes of the group to the whole tensor; called by all of these."""
        slices = gather_tensors(values, self.group)
        if self.dimension == 1:
            return torch.cat(slices, 1)
        return torch.cat([each.unflatten(0, (self.num_stacked, -1)) for each in slices], 1).flatten(0, 1)

    def whole_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of the whole tensor, given that of the slice."""
        return tuple(
            size * self.size if dimension == self.dimension else size for dimension, size in enumerate(shape)
        )


def slice_of(parameter: Tensor) -> Slice | None:
    """Return which slice a parameter is, or None if tensor parallelism does not split it."""
    return getattr(parameter, "tensor_slice", None)


def mark_slices(model: nn.Module) -> None:
    """Attach to each split parameter its slice.

    Call it after the model has been wrapped and moved, because both create new parameters.
    """
    for module in model.modules():
        for name, tensor_slice in getattr(module, "slices", {}).items():
            getattr(module, name).tensor_slice = tensor_slice


def split(blocks: Sequence[Block], mesh: DeviceMesh) -> None:
    """Keep this process's heads and inner widths of each block, in place.

    Args:
        blocks: whole blocks, the same on every process.
        mesh: one dimension: the processes that split the blocks.
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
    """A linear layer of which this process holds a slice; parameters keep their names.

    Attributes:
        slices: the split parameters, by name.
        low_rank: what low-rank factors add to the layer, if it has some.
    """

    weight: Tensor
    bias: Tensor
    lora_a: Tensor
    lora_b: Tensor

    def __init__(self, whole: nn.Linear, slices: dict[str, Slice]) -> None:
        super().__init__()
        self.slices = slices
        self.low_rank = _low_rank(whole)
        for name, parameter in whole.named_parameters():
            tensor = slices[name].cut(parameter.detach()).clone() if name in slices else parameter.detach()
            self.register_parameter(name, nn.Parameter(tensor, requires_grad=parameter.requires_grad))


class ColumnParallelLinear(_ParallelLinear):
    """A linear layer from (..., I) on every process to (..., O / P) on each. Of low-rank factors, B is cut."""

    def __init__(self, whole: nn.Linear, tensor_slice: Slice) -> None:
        slices = {"weight": tensor_slice, "bias": tensor_slice}
        if (low_rank := _low_rank(whole)) is not None:
            slices["lora_b"] = tensor_slice._replace(num_stacked=low_rank.num_adapted)
        super().__init__(whole, slices)
        self.group = tensor_slice.group

    def forward(self, hidden: Tensor) -> Tensor:
        """Compute this process's outputs; the backward pass adds up the inputs' gradients over the processes."""
        shared = _Shared.apply(hidden, self.group)
        outputs = F.linear(shared, self.weight, self.bias)
        if self.low_rank is None:
            return outputs
        a = _Shared.apply(self.lora_a, self.group)
        return outputs + self.low_rank(shared, a, self.lora_b, training=self.training)


class RowParallelLinear(_ParallelLinear):
    """A linear layer from (..., I / P) on each process to (..., O) on every one. Of low-rank factors, A is cut."""

    def __init__(self, whole: nn.Linear, tensor_slice: Slice) -> None:
        slices = {"weight": tensor_slice}
        if _low_rank(whole) is not None:
            slices["lora_a"] = tensor_slice
        super().__init__(whole, slices)
        self.group, self.rank = tensor_slice.group, tensor_slice.rank

    def forward(self, hidden: Tensor) -> Tensor:
        """Compute the outputs, added up over the processes."""
        product = F.linear(hidden, self.weight)
        if self.low_rank is not None:
            b = _Shared.apply(self.lora_b, self.group)
            # Each process has other inputs, so it drops out others.
            with _draws_of(self.rank) if self.training and self.low_rank.dropout else nullcontext():
                product = product + self.low_rank(hidden, self.lora_a, b, training=self.training)
        product = _Summed.apply(product, self.group)
        return product + self.bias.to(product.dtype)


def _low_rank(layer: nn.Linear) -> LowRank | None:
    return getattr(layer, "low_rank", None)


class _GroupContext(Protocol):
    """The context of an autograd function that stores its process group."""

    group: ProcessGroup


class _Shared(torch.autograd.Function):
    """The identity, whose backward pass adds up the gradients of all processes: `f` in figure 3 of the paper."""

    @staticmethod
    def forward(ctx: _GroupContext, values: Tensor, group: ProcessGroup) -> Tensor:
        ctx.group = group
        return values.view_as(values)

    @staticmethod
    def backward(ctx: _GroupContext, *gradients: Tensor) -> tuple[Tensor, None]:
        return sum_over_processes(gradients[0], ctx.group), None


class _Summed(torch.autograd.Function):
    """The sum over all processes, whose backward pass is the identity: `g` in figure 3 of the paper."""

    @staticmethod
    def forward(ctx: FunctionCtx, values: Tensor, group: ProcessGroup) -> Tensor:
        return sum_over_processes(values, group)

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


@contextmanager
def _draws_of(rank: int) -> Iterator[None]:
    """Draw different random numbers on each process; afterwards all processes draw the same ones again."""
    seed = int(torch.randint(2**62, ()))
    with torch.random.fork_rng([torch.cuda.current_device()] if torch.cuda.is_initialized() else []):
        torch.manual_seed(seed + rank)
        yield
