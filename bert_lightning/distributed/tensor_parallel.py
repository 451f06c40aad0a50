"""Tensor parallelism: processes split the heads and inner widths of each block, and compute each product together.

Shoeybi et al. 2019 (Megatron-LM), arXiv 1909.08053, section 3. Products come in pairs. The first one is
column-parallel: each process computes some of its outputs. The second one is row-parallel: it takes those as its
inputs, and its outputs are added up over the processes. A pair needs one exchange forward and one backward.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
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
    head_parallel: Sequence[str]
    """names of modules whose parameters (..., H) are cut by heads; a block may have None there"""
    num_heads: int
    draws_apart: Callable[[], AbstractContextManager[None]]
    """returns a context in which each process draws different random numbers, because it holds different heads"""


class Change(Protocol):
    """The change that a tuning makes to a linear layer with added parameters."""

    @property
    def draws(self) -> bool:
        """Whether training draws random numbers for the inputs."""

    def slices(self, dimension: int) -> Mapping[str, tuple[int, int]]:
        """Return the added parameters to cut if the matrix is cut by rows (0) or columns (1).

        The values are the dimension of the parameter, and the number of matrices stacked in it.
        """

    def outputs(
        self,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        added: Mapping[str, Tensor],
        *,
        training: bool,
        total: Callable[[Tensor], Tensor] = ...,
    ) -> Tensor:
        """Return the outputs (..., O) for (..., I). `total` adds up the processes' sums over their inputs."""


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
    """Attach its slice to each split parameter.

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
        for name in block.head_parallel:
            _cut_by_heads(getattr(block, name), Slice(1, 1, rank, group))
        block.num_heads //= size
        block.draws_apart = lambda: _draws_of(rank)


def _cut_by_heads(module: nn.Module | None, tensor_slice: Slice) -> None:
    """Keep this process's columns of all parameters (..., H) of a module, in place. The heads are stretches of H."""
    if module is None:
        return
    own = dict(module.named_parameters(recurse=False))
    for name, parameter in own.items():
        module.register_parameter(name, _cut(parameter, tensor_slice))
    setattr(module, "slices", dict.fromkeys(own, tensor_slice))  # noqa: B010


def _cut(parameter: nn.Parameter, tensor_slice: Slice | None) -> nn.Parameter:
    tensor = parameter.detach()
    tensor = tensor_slice.cut(tensor).clone() if tensor_slice is not None else tensor
    return nn.Parameter(tensor, requires_grad=parameter.requires_grad)


class _ParallelLinear(nn.Module):
    """A linear layer of which this process holds a slice; parameters keep their names.

    Attributes:
        slices: the split parameters, by name.
        change: what a tuning changes in the layer, if something does.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, whole: nn.Linear, tensor_slice: Slice, cut: Sequence[str]) -> None:
        super().__init__()
        self.group, self.rank = tensor_slice.group, tensor_slice.rank
        self.change: Change | None = getattr(whole, "change", None)
        self._added_names: tuple[str, ...] = getattr(whole, "added_names", ())
        self.slices = dict.fromkeys(cut, tensor_slice)
        if self.change is not None:
            for name, (dimension, num_stacked) in self.change.slices(tensor_slice.dimension).items():
                self.slices[name] = tensor_slice._replace(dimension=dimension, num_stacked=num_stacked)
        for name, parameter in whole.named_parameters():
            self.register_parameter(name, _cut(parameter, self.slices.get(name)))

    def _added(self) -> dict[str, Tensor]:
        """Return the parameters of the change. If one is whole here, its gradients are summed over the processes."""
        added = {name: self.get_parameter(name) for name in self._added_names}
        return {
            name: each if name in self.slices else _Shared.apply(each, self.group) for name, each in added.items()
        }


class ColumnParallelLinear(_ParallelLinear):
    """A linear layer from (..., I) on every process to (..., O / P) on each."""

    def __init__(self, whole: nn.Linear, tensor_slice: Slice) -> None:
        super().__init__(whole, tensor_slice, ("weight", "bias"))

    def forward(self, hidden: Tensor) -> Tensor:
        """Compute this process's outputs; the backward pass adds up the inputs' gradients over the processes."""
        shared = _Shared.apply(hidden, self.group)
        if self.change is None:
            return F.linear(shared, self.weight, self.bias)
        return self.change.outputs(shared, self.weight, self.bias, self._added(), training=self.training)


class RowParallelLinear(_ParallelLinear):
    """A linear layer from (..., I / P) on each process to (..., O) on every one."""

    def __init__(self, whole: nn.Linear, tensor_slice: Slice) -> None:
        super().__init__(whole, tensor_slice, ("weight",))

    def forward(self, hidden: Tensor) -> Tensor:
        """Compute the outputs, added up over the processes."""
        if self.change is None:
            product = F.linear(hidden, self.weight)
        else:
            total = partial(sum_over_processes, group=self.group)
            # Each process has other inputs, so it needs its own dropout mask.
            with _draws_of(self.rank) if self.training and self.change.draws else nullcontext():
                product = self.change.outputs(
                    hidden, self.weight, None, self._added(), training=self.training, total=total
                )
        product = _Summed.apply(product, self.group)
        return product + self.bias.to(product.dtype)


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
