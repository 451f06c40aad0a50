"""Values of all processes, gathered."""

from typing import Any

import torch


def of_all_ranks(value: Any) -> list[Any]:
    """Gather the values of all processes in order of rank; every process must call this."""
    if not torch.distributed.is_initialized():
        return [value]
    values: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values
