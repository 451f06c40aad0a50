"""The device and the precision in which a saved model computes."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Literal, get_args

import torch

from bert_lightning.errors import InputError
from bert_lightning.runs.auto_settings import has_fast_bfloat16

InferencePrecision = Literal["32", "bf16-mixed", "auto"]
"""The precision of inference. `auto` is `bf16-mixed` if the device multiplies bfloat16 in hardware."""


def chosen_device(device: str | None) -> torch.device:
    """Return the named device; without a name, CUDA if it is available, otherwise the processor.

    Raises:
        InputError: there is no such device, or it cannot be used on this machine.
    """
    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        # Only an allocation shows that a device can be used.
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, ImportError) as error:
        raise InputError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from None


def uses_bfloat16(precision: InferencePrecision, device: torch.device) -> bool:
    """Return whether a device computes products in bfloat16.

    Raises:
        InputError: there is no such precision.
    """
    if precision not in get_args(InferencePrecision):
        raise InputError(f"precision is {precision!r}; it must be one of {', '.join(get_args(InferencePrecision))}")
    if precision == "auto":
        return has_fast_bfloat16("cpu" if device.type == "cpu" else "auto")
    return precision == "bf16-mixed"


@contextmanager
def inference(device: torch.device, bfloat16: bool) -> Iterator[None]:
    """Compute without gradients, with products in bfloat16 or not.

    It should span many batches, because autocast casts each weight once within it.
    """
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16) if bfloat16 else nullcontext():
        yield
