"""FSDP2 and tensor parallelism through Lightning: the model in shards, and checkpoints that every strategy reads."""

import os
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.distributed_c10d import _set_pg_timeout
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from bert_lightning.checkpoints.errors import CheckpointError
from bert_lightning.checkpoints.shards import TensorSlice, write_shards
from bert_lightning.distributed.collectives import of_all_ranks
from bert_lightning.distributed.slices import local, place, rows_for, whole, whole_shape, with_all_rows
from bert_lightning.distributed.tensor_parallel import mark_slices, slice_of, split
from bert_lightning.errors import SharedWorkError

# Gradients are added up over processes in float32 whatever they were computed in. With bf16-mixed the weights travel
# and are used as bfloat16, and stay in float32 in the shards; autocast decides over activations as elsewhere.
_POLICIES = {
    "bf16-mixed": MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False),
    "bf16-true": MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False),
}


def shard(model: nn.Module, blocks: Sequence[nn.Module], methods: Sequence[str], mesh: DeviceMesh, name: str) -> None:
    """Share out the heads and widths of the blocks, and then the rows of every parameter, over a mesh, in place.

    Each block is gathered by itself when it is its turn; all else (embeddings, heads, the word matrix that both use)
    from the model's first use to the end of the backward pass.

    Args:
        model: from the same weights on every process.
        blocks: of the model.
        methods: of the model that are called in place of `forward`.
        mesh: with the dimensions `data_parallel` (over which rows are shared) and `tensor_parallel`.
        name: of the precision.
    """
    if isinstance(model, FSDPModule):
        return
    if mesh["tensor_parallel"].size() > 1:
        split(blocks, mesh["tensor_parallel"])
    policy, rows = _POLICIES.get(name, MixedPrecisionPolicy(cast_forward_inputs=False)), mesh["data_parallel"]
    for block in blocks:
        fully_shard(block, mesh=rows, mp_policy=policy)
    # The backward pass begins with what the model itself holds.
    fully_shard(model, mesh=rows, mp_policy=policy, reshard_after_forward=False)
    for method in methods:
        register_fsdp_forward_method(model, method)


def gather(model: nn.Module, *, gathered: bool) -> None:
    """Keep all parameters gathered while a split is scored, or shared out again; called by all processes.

    A process that has no sample left for a batch could not take part in the gathering of each block.
    """
    for module in model.modules():
        if isinstance(module, FSDPModule):
            if module is not model:
                module.set_reshard_after_forward(not gathered, recurse=False)
            if gathered:
                module.unshard()
            else:
                module.reshard()


class ShardedStrategy(ModelParallelStrategy):
    """Lightning's strategy with checkpoints of our own.

    Those of Lightning's are pickles of another layout. These are the single file that other strategies write, or a
    folder of parts (`checkpoints/shards.py`), and either is loaded whatever wrote it.

    Args:
        world_size: processes.
        tensor_parallel: how many of them share the heads and widths of a block.
        in_parts: each process writes its rows, rather than the first one everything.
        timeout: how long a process waits for the others.
    """

    def __init__(self, world_size: int, tensor_parallel: int, in_parts: bool, timeout: timedelta) -> None:
        super().__init__(
            data_parallel_size=world_size // tensor_parallel,
            tensor_parallel_size=tensor_parallel,
            save_distributed_checkpoint=in_parts,
            timeout=timeout,
        )
        self.tensor_parallel = tensor_parallel
        self.in_parts = in_parts

    def setup_environment(self) -> None:
        """Begin the processes and their groups, which all wait equally long."""
        super().setup_environment()
        assert self._timeout is not None
        for name in self.device_mesh.mesh_dim_names or ():
            _set_pg_timeout(self._timeout, self.device_mesh[name].get_group())

    def model_to_device(self) -> None:
        """Move what is not there yet, which makes new parameters."""
        super().model_to_device()
        assert self.model is not None
        mark_slices(self.model)

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Through `load_optimizer_state_dict`."""
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The weights, as they are saved; on all processes."""
        assert self.lightning_module is not None
        # Shares out again what is gathered for scoring, so it comes before the parameters.
        state = self.lightning_module.state_dict()
        own = dict(self.lightning_module.named_parameters())
        return {name: self._saved(tensor, own.get(name, tensor)) for name, tensor in state.items()}

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        """As the optimiser's own `state_dict`, with tensors as they are saved; on all processes."""
        if isinstance(optimizer, LightningOptimizer):
            optimizer = optimizer.optimizer
        content, parameters = optimizer.state_dict(), _parameters(optimizer)
        saved = {
            number: {
                name: self._saved(_like(value, parameters[number]), parameters[number])
                for name, value in state.items()
            }
            for number, state in content["state"].items()
        }
        return {**content, "state": saved}

    def _saved(self, value: Any, parameter: Tensor) -> Any:
        """A value as it is saved; a tensor in memory of its own, so that it can be written behind the training."""
        if not isinstance(value, Tensor):
            return value
        if not isinstance(value, DTensor):
            return value.detach().to("cpu", copy=True)
        if self.in_parts:
            return self._rows(value.to_local().detach().to("cpu", copy=True), parameter)
        # One at a time, so that the first process alone ever holds them all.
        full = whole(value.detach(), parameter)
        if not self.is_global_zero:
            return None
        is_shared = full.untyped_storage().data_ptr() == local(value).untyped_storage().data_ptr()
        return full.to("cpu", copy=is_shared)

    def _rows(self, rows: Tensor, parameter: Tensor) -> TensorSlice:
        shape, part = whole_shape(parameter), slice_of(parameter)
        if part is not None and isinstance(parameter, DTensor):
            return TensorSlice(rows, shape, *place(parameter, part))
        # What is no part, all that share the blocks have; the first of them writes it.
        return TensorSlice(rows if self.global_rank % self.tensor_parallel == 0 else rows[:0], shape)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None) -> None:
        """Write one; on all processes.

        Raises:
            SharedWorkError: a process could not write its part.
        """
        path = Path(self.broadcast(str(filepath)))
        if self.in_parts:
            try:
                write_shards(path, checkpoint, checkpoint["global_step"], self.global_rank, of_all_ranks)
            except CheckpointError as error:
                raise SharedWorkError(str(error)) from None
        elif self.is_global_zero:
            self.checkpoint_io.save_checkpoint(checkpoint, path, ("state_dict", "optimizer_states"))

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Read one of whatever strategy and number of processes."""
        return self.checkpoint_io.load_checkpoint(Path(os.fspath(checkpoint_path)))

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Take this process's rows of the weights.

        Raises:
            CheckpointError: other names than the model's.
        """
        assert self.lightning_module is not None
        given, own = checkpoint["state_dict"], self.lightning_module.state_dict()
        parameters = dict(self.lightning_module.named_parameters())
        if different := sorted(given.keys() ^ own.keys()):
            raise CheckpointError(f"the checkpoint and the model differ in {', '.join(different)}")
        for name, tensor in own.items():
            local(tensor).copy_(rows_for(given[name], parameters.get(name, tensor)))

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Take this process's rows of the optimiser's tensors."""
        for optimizer, content in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = _parameters(optimizer)
            # Ours count with rows, torch's with tensors that know them all.
            of_rows = getattr(optimizer, "keeps_rows", False)

            def taken(value: Any, parameter: Tensor, of_rows: bool = of_rows) -> Any:
                if not isinstance(value, Tensor) or value.ndim == 0:
                    return value
                rows = rows_for(value, parameter).to(parameter.device, copy=True)
                return rows if of_rows else with_all_rows(rows, parameter)

            state = {
                number: {name: taken(value, parameters[number]) for name, value in state.items()}
                for number, state in content["state"].items()
            }
            optimizer.load_state_dict({**content, "state": state})


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _like(value: Any, parameter: Tensor) -> Any:
    """An optimiser's tensors have their parameter's shape; its numbers, which may be tensors too, have none."""
    return with_all_rows(value, parameter) if isinstance(value, Tensor) and value.ndim else value
