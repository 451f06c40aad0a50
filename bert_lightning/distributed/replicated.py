"""DDP through Lightning: each process has the whole model."""

from datetime import timedelta

from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.nn.parallel import DistributedDataParallel

# Megabytes of gradients that are added up over processes at once. torch's default suits slow links; over NVLink a
# larger message takes hardly longer. On a processor the default stays, because the last bits depend on it.
_BUCKET_MEGABYTES = 25
_BUCKET_MEGABYTES_ON_GPU = 100


class ReplicatedStrategy(DDPStrategy):
    """Lightning's DDP without the work that BERT does not need.

    Args:
        num_processes: how many processes train.
        on_gpu: whether they train on GPUs.
        deterministic: whether a resumed run must have the bits of an uninterrupted one on GPUs too.
        timeout: how long a process waits for the others.
    """

    def __init__(self, num_processes: int, on_gpu: bool, deterministic: bool, timeout: timedelta) -> None:
        super().__init__(
            gradient_as_bucket_view=True,
            timeout=timeout,
            bucket_cap_mb=_BUCKET_MEGABYTES_ON_GPU if on_gpu else _BUCKET_MEGABYTES,
            # Unless DDP looks for unused parameters, it rearranges its buckets after the first step, and again after
            # each resume. The order in which three or more processes add up gradients depends on the position in a
            # bucket, so that position must not change. On GPUs the search costs a walk over the graph and an exchange
            # in every step, and the order depends on more than the position.
            find_unused_parameters=num_processes > 2 and (deterministic or not on_gpu),
        )

    def _setup_model(self, model: nn.Module) -> DistributedDataParallel:
        wrapped = super()._setup_model(model)
        # DDP would send the buffers of the first process to the others in every forward pass. Ours never change. The
        # argument of the constructor has another name in later versions of torch.
        wrapped.broadcast_buffers = has_saved_buffers(model)
        return wrapped


def has_saved_buffers(model: nn.Module) -> bool:
    """Return whether a model has buffers that checkpoints hold, such as the running means of a custom part.

    >>> has_saved_buffers(nn.LayerNorm(2)), has_saved_buffers(nn.BatchNorm1d(2))
    (False, True)
    """
    return not {name for name, _ in model.named_buffers()}.isdisjoint(model.state_dict())
