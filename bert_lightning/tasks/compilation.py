"""`torch.compile` of training: the settings of the compiler, and blocks that are compiled by themselves.

On a processor shapes are dynamic from the start. Otherwise the kernels, and so the last bits, would depend on which
shapes came first.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

# Each form of a batch, such as padded with or without a mask, has its own graph. Beyond this limit, which is 8 in
# torch, everything would silently run uncompiled.
_MOST_GRAPHS = 32


def prepare_compiler() -> None:
    """Set the options of torch's compiler, in this process."""
    settings: Any = torch._dynamo.config
    # Otherwise dropout rates are symbols, and each graph is traced twice.
    settings.specialize_float = True
    settings.recompile_limit = max(settings.recompile_limit, _MOST_GRAPHS)


def compile_blocks(blocks: Iterable[nn.Module]) -> None:
    """Compile each block by itself, in place, for training.

    All blocks share one graph, which is traced in a fraction of the time that the whole model takes. FSDP gathers the
    parameters of each block before it runs, and DDP does not cut the graph into those of its buckets. Validation runs
    uncompiled, because it has shapes of its own and few batches.
    """
    # On a GPU, shapes that repeat get static kernels.
    dynamic = None if torch.cuda.is_available() else True
    for block in blocks:
        block.forward = _in_training(block, torch.compile(block.forward, dynamic=dynamic))


def _in_training(block: nn.Module, compiled: Any) -> Any:
    plain = block.forward

    def forward(*arguments: Any) -> Any:
        return (compiled if block.training else plain)(*arguments)

    return forward
