"""FSDP2 and tensor parallelism through Lightning, with checkpoints that every strategy reads."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

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
from bert_lightning.distributed.collectives import gather_objects
from bert_lightning.distributed.slices import as_distributed, local, rows_and_columns, slice_for, whole, whole_shape
from bert_lightning.distributed.tensor_parallel import Block, mark_slices, slice_of, split
from bert_lightning.errors import SharedWorkError

# Gradients of every type are added up over processes in float32. With bf16-mixed, weights are gathered and used as
# bfloat16, and their slices stay in float32. Autocast decides the type of activations as usual.
_POLICIES = {
    "bf16-mixed": MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False),
    "bf16-true": MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False),
}
# If a model has at most this many bytes, its gathered blocks stay until the backward pass, instead of being gathered
# again for it. The micro-batches of a step then exchange gradients once. BERT large has 0.6 GB in 16 bits.
_KEPT_GATHERED = 2**31
# The attribute of a sharded model that says whether it exceeds that.
_IS_LARGE = "gathers_blocks_twice"


def shard(model: nn.Module, blocks: Sequence[nn.Module], methods: Sequence[str], mesh: DeviceMesh, name: str) -> None:
    """Split the blocks by tensor parallelism, then every parameter by FSDP2, in place.

    Each block is gathered when it is used, and in a large model again for the backward pass. Everything else
    (embeddings, heads, the word matrix that both use) stays gathered from the model's first use to the end of the
    backward pass.

    Args:
        model: has the same weights on every process.
        blocks: the Transformer blocks of the model.
        methods: methods of the model that are called in place of `forward`.
        mesh: the dimensions `data_parallel`, over which FSDP2 cuts rows, and `tensor_parallel`.
        name: the name of the precision, such as `bf16-mixed`.
    """
    if isinstance(model, FSDPModule):
        return
    if mesh["tensor_parallel"].size() > 1:
        split(cast(Sequence[Block], blocks), mesh["tensor_parallel"])
    policy, rows = _POLICIES.get(name, MixedPrecisionPolicy(cast_forward_inputs=False)), mesh["data_parallel"]
    is_large = _gathered_bytes(model, policy) > _KEPT_GATHERED
    for block in blocks:
        fully_shard(block, mesh=rows, mp_policy=policy, reshard_after_forward=is_large)
    # The backward pass begins with what the model itself holds.
    fully_shard(model, mesh=rows, mp_policy=policy, reshard_after_forward=False)
    for method in methods:
        register_fsdp_forward_method(model, method)
    setattr(model, _IS_LARGE, is_large)


def shard_layers(module: nn.Module, mesh: DeviceMesh, name: str) -> None:
    """Split linear layers that train beside a model by FSDP2, each by itself, in place.

    Every process of a tensor-parallel group computes all of them.

    Args:
        module: holds the layers, with the same weights on every process.
        mesh: as in `shard`.
        name: the name of the precision, such as `bf16-mixed`.
    """
    policy = _POLICIES.get(name, MixedPrecisionPolicy(cast_forward_inputs=False))
    for layer in [each for each in module.modules() if isinstance(each, nn.Linear)]:
        if not isinstance(layer, FSDPModule):
            fully_shard(layer, mesh=mesh["data_parallel"], mp_policy=policy, reshard_after_forward=False)


def _is_large(model: nn.Module) -> bool:
    return bool(getattr(model, _IS_LARGE))


def _gathered_bytes(model: nn.Module, policy: MixedPrecisionPolicy) -> int:
    return sum(
        parameter.numel() * (policy.param_dtype or parameter.dtype).itemsize for parameter in model.parameters()
    )


def gather(model: nn.Module, *, gathered: bool) -> None:
    """Gather all parameters for scoring a split, or cut them again; called by all processes.

    Otherwise every block would be gathered for every micro-batch. A process that has no sample left does not run the
    model, so it could not take part.
    """
    for module in model.modules():
        if isinstance(module, FSDPModule):
            if module is not model:
                module.set_reshard_after_forward(_is_large(model) and not gathered, recurse=False)
            if gathered:
                module.unshard()
            else:
                module.reshard()


class ShardedStrategy(ModelParallelStrategy):
    """Lightning's strategy for FSDP2 and tensor parallelism, with our own checkpoints.

    Lightning's checkpoints are pickles of another layout. Ours are the single file that other strategies write, or a
    folder with one file per process (`checkpoints/shards.py`). Both can be loaded, whichever strategy wrote them.

    Args:
        world_size: number of processes.
        tensor_parallel: how many of them split the heads and inner widths of a block.
        sharded_checkpoints: each process writes its slices; otherwise the first process writes everything.
        timeout: how long a process waits for the others.
    """

    def __init__(self, world_size: int, tensor_parallel: int, sharded_checkpoints: bool, timeout: timedelta) -> None:
        super().__init__(
            data_parallel_size=world_size // tensor_parallel,
            tensor_parallel_size=tensor_parallel,
            save_distributed_checkpoint=sharded_checkpoints,
            timeout=timeout,
        )
        self.tensor_parallel = tensor_parallel
        self.sharded_checkpoints = sharded_checkpoints

    def setup_environment(self) -> None:
        """Start the processes, and give all their groups the same timeout."""
        super().setup_environment()
        assert self._timeout is not None
        for name in self.device_mesh.mesh_dim_names or ():
            _set_pg_timeout(self._timeout, self.device_mesh[name].get_group())

    @contextmanager
    def block_backward_sync(self) -> Iterator[None]:
        """Keep the gradients of backward passes whole on each process, for all passes of a step except the last.

        The last pass exchanges the sums. The whole gradients of a large model would take too much memory, so each of
        its passes exchanges them.
        """
        task = self.lightning_module
        sharded = [module for module in task.children() if isinstance(module, FSDPModule)] if task is not None else []
        small = [module for module in sharded if not _is_large(cast(nn.Module, module))]
        for module in small:
            module.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            for module in small:
                module.set_requires_gradient_sync(True)

    def model_to_device(self) -> None:
        """Move the model to the device. This may create new parameters, so their slices are marked afterwards."""
        super().model_to_device()
        assert self.model is not None
        mark_slices(self.model)

    @property
    def lightning_restore_optimizer(self) -> bool:
        """True: Lightning then calls `load_optimizer_state_dict`."""
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Return the weights in their saved form; called by all processes."""
        assert self.lightning_module is not None
        # `state_dict` cuts parameters again that are gathered for scoring, so read the parameters only after it.
        state = self.lightning_module.state_dict()
        parameters = dict(self.lightning_module.named_parameters())
        return {name: self._saved(tensor, parameters.get(name, tensor)) for name, tensor in state.items()}

    def optimizer_state(self, optimizer: torch.optim.Optimizer | LightningOptimizer) -> dict[str, Any]:
        """Return the optimiser's `state_dict` with tensors in their saved form; called by all processes."""
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

    def _saved(self, value: object, parameter: Tensor) -> object:
        """Return a value in its saved form. Tensors are copied, so that a thread can write them during training."""
        if not isinstance(value, Tensor):
            return value
        if not isinstance(value, DTensor):
            return value.detach().to("cpu", copy=True)
        if self.sharded_checkpoints:
            return self._slice(value.to_local().detach().to("cpu", copy=True), parameter)
        # One tensor at a time, so that only the first process ever holds them all.
        full = whole(value.detach(), parameter)
        if not self.is_global_zero:
            return None
        is_shared = full.untyped_storage().data_ptr() == local(value).untyped_storage().data_ptr()
        return full.to("cpu", copy=is_shared)

    def _slice(self, rows: Tensor, parameter: Tensor) -> TensorSlice:
        shape, tensor_slice = whole_shape(parameter), slice_of(parameter)
        if tensor_slice is not None and isinstance(parameter, DTensor):
            return TensorSlice(rows, shape, *rows_and_columns(parameter, tensor_slice))
        # All processes of a tensor-parallel group hold the same rows of an unsplit tensor; the first one writes them.
        return TensorSlice(rows if self.global_rank % self.tensor_parallel == 0 else rows[:0], shape)

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: object = None
    ) -> None:
        """Write a checkpoint; called by all processes.

        Raises:
            SharedWorkError: a process could not write its file.
        """
        path = Path(self.broadcast(str(filepath)))
        if self.sharded_checkpoints:
            try:
                write_shards(path, checkpoint, checkpoint["global_step"], self.global_rank, gather_objects)
            except CheckpointError as error:
                raise SharedWorkError(str(error)) from None
        elif self.is_global_zero:
            self.checkpoint_io.save_checkpoint(checkpoint, path, ("state_dict", "optimizer_states"))

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint, whichever strategy and number of processes wrote it."""
        return self.checkpoint_io.load_checkpoint(Path(os.fspath(checkpoint_path)))

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Load this process's slices of the weights.

        Raises:
            CheckpointError: the names of the weights differ from the model's.
        """
        assert self.lightning_module is not None
        saved, current = checkpoint["state_dict"], self.lightning_module.state_dict()
        parameters = dict(self.lightning_module.named_parameters())
        if different := sorted(saved.keys() ^ current.keys()):
            raise CheckpointError(f"the checkpoint and the model differ in {', '.join(different)}")
        for name, tensor in current.items():
            local(tensor).copy_(slice_for(saved[name], parameters.get(name, tensor)))

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Load this process's slices of the optimiser's tensors."""
        for optimizer, content in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = _parameters(optimizer)
            # The states of our optimisers are plain tensors that hold the slice, those of torch's are distributed.
            keeps_slices = getattr(optimizer, "keeps_slices", False)

            def loaded(value: object, parameter: Tensor, keeps_slices: bool = keeps_slices) -> object:
                if not isinstance(value, Tensor) or value.ndim == 0:
                    return value
                tensor_slice = slice_for(value, parameter).to(parameter.device, copy=True)
                return tensor_slice if keeps_slices else as_distributed(tensor_slice, parameter)

            state = {
                number: {name: loaded(value, parameters[number]) for name, value in state.items()}
                for number, state in content["state"].items()
            }
            optimizer.load_state_dict({**content, "state": state})


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _like(value: object, parameter: Tensor) -> object:
    """Distribute a slice of an optimiser's state like its parameter; return scalars, tensors or not, unchanged."""
    return as_distributed(value, parameter) if isinstance(value, Tensor) and value.ndim else value
