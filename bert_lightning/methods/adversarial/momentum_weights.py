"""Momentum weights: a moving average of the weights of a model, which can compute in its place."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from bert_lightning.distributed.sharded import gather
from bert_lightning.distributed.slices import local
from bert_lightning.distributed.tensor_parallel import Slice, mark_slices, slice_of

# beta in the first tenth of the updates, and after it: Jiang et al. 2020, who follow Tarvainen and Valpola 2017.
_EARLY_SHARE, _EARLY, _LATE = 0.1, 0.99, 0.999


class MomentumWeights(nn.Module):
    """A moving average of the parameters that train: w~ = (1 - beta) w + beta w~ after each step.

    Jiang et al. 2020, arXiv 1911.03437, algorithm 1. Each process holds the slices that it holds of the model, in
    float32 at least, because small changes would vanish in 16 bits. Checkpoints hold them as part of the task.

    Args:
        model: the model before the first step, with its parameters already split if processes share them.
    """

    slices: dict[str, Slice]
    num_steps: Tensor

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.slices = {}
        # FSDP has made new parameters since tensor parallelism cut them.
        mark_slices(model)
        for name, parameter in _trained(model):
            kind = torch.promote_types(parameter.dtype, torch.float32)
            own = nn.Parameter(parameter.detach().to(kind, copy=True), requires_grad=False)
            self.register_parameter(_own_name(name), own)
            if (tensor_slice := slice_of(parameter)) is not None:
                self.slices[_own_name(name)] = tensor_slice
        self.register_buffer("num_steps", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def follow(self, model: nn.Module, step: int, num_steps: int) -> None:
        """Follow the weights after a step, unless that has been done.

        Args:
            model: the weights after `step` steps.
            step: number of the steps that are done. Before the first one of a further training, the averages begin
                anew with the present weights.
            num_steps: number of the steps of the training.
        """
        done = int(self.num_steps)
        if step == 0 and done:
            for weight, own in self._pairs(model):
                own.copy_(weight)
            self.num_steps.zero_()
        if step <= done:
            return
        beta = _EARLY if step <= _EARLY_SHARE * num_steps else _LATE
        for weight, own in self._pairs(model):
            own.mul_(beta).add_(weight.to(own.dtype), alpha=1 - beta)
        self.num_steps.fill_(step)

    @contextmanager
    def in_place_of(self, model: nn.Module) -> Iterator[None]:
        """Let the model compute with these weights. Afterwards it has its own again, bit for bit."""
        pairs = self._pairs(model)
        before = [weight.clone() for weight, _ in pairs]
        try:
            _replace(model, [(weight, own) for weight, own in pairs])
            yield
        finally:
            _replace(model, list(zip((weight for weight, _ in pairs), before, strict=True)))

    def _pairs(self, model: nn.Module) -> list[tuple[Tensor, Tensor]]:
        """Return what this process holds of each parameter that trains, and of its average."""
        # Parameters that FSDP has gathered are copies of the slices that it holds.
        gather(model, gathered=False)
        return [
            (local(parameter.detach()), local(getattr(self, _own_name(name)).detach()))
            for name, parameter in _trained(model)
        ]


def _trained(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]


def _own_name(name: str) -> str:
    # The name of a parameter may not hold a dot.
    return name.replace(".", "/")


def _replace(model: nn.Module, pairs: list[tuple[Tensor, Tensor]]) -> None:
    """Copy values into parameters, so that the next forward pass uses them."""
    for weight, value in pairs:
        # `data` leaves the version counter alone, so gradients of earlier forward passes can still be computed.
        weight.data.copy_(value)
    gather(model, gathered=False)
    # Autocast keeps 16-bit copies of the weights.
    torch.clear_autocast_cache()
