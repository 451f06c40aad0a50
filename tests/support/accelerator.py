"""An accelerator on any machine: torch's meta device, on which tensors have shapes but no values.

What would make a host wait for an accelerator is recorded, since nothing ever waits for the meta device.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.accelerators import Accelerator
from lightning.pytorch.loops import fit_loop
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch.optim import optimizer
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from bert_lightning.tasks import task as tasks
from bert_lightning.tasks.task import Task

aten = torch.ops.aten
# They return a value to the host, or a tensor whose size depends on values.
_READ_VALUES = {
    aten._local_scalar_dense.default,
    aten.equal.default,
    aten.is_nonzero.default,
    aten.masked_select.default,
    aten.nonzero.default,
    aten._unique2.default,
}
# torch has a form without values of its other fused optimisers.
_META = torch.library.Library("aten", "IMPL", "Meta")
_META.impl("_fused_sgd_", lambda *_, **__: None)


class MetaAccelerator(Accelerator):
    """The meta device, as Lightning sees it."""

    def setup_device(self, device: torch.device) -> None:
        pass

    def teardown(self) -> None:
        pass

    @staticmethod
    def parse_devices(devices: Any) -> Any:
        return devices

    @staticmethod
    def get_parallel_devices(devices: Any) -> list[torch.device]:
        return [torch.device("meta")]

    @staticmethod
    def auto_device_count() -> int:
        return 1

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def name() -> str:
        return "meta"


class MetaStrategy(SingleDeviceStrategy):
    """One process that trains on the meta device, from which nothing can be moved back."""

    def __init__(self) -> None:
        super().__init__(torch.device("meta"), MetaAccelerator())

    def teardown(self) -> None:
        pass


class Waits(TorchDispatchMode):
    """A context that records operations after which a host has waited for its accelerator.

    Attributes:
        found: their names. A copy that does not block is none of them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._constructors = _Constructors(self.found)

    def __enter__(self) -> Self:
        self._constructors.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._constructors.__exit__(*error)

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        named = named or {}
        if _waits(function, arguments, named):
            self.found.append(str(function))
        return function(*arguments, **named)


class _Constructors(TorchFunctionMode):
    """A context that records tensors that are made of values of the host: torch copies those without dispatching."""

    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        named = named or {}
        if function in (torch.tensor, torch.as_tensor) and torch.device(named.get("device") or "cpu").type == "meta":
            self.found.append(function.__name__)
        return function(*arguments, **named)


def _waits(function: Any, arguments: Any, named: dict[str, Any]) -> bool:
    devices = {each.device.type for each in arguments if isinstance(each, torch.Tensor)}
    if function in _READ_VALUES:
        return "meta" in devices
    if function is aten.index.Tensor:
        return any(each is not None and each.dtype in (torch.bool, torch.uint8) for each in arguments[1])
    if function is aten.repeat_interleave.Tensor:
        return named.get("output_size") is None
    if function is aten._to_copy.default:
        target = named.get("device")
        crosses = target is not None and target.type not in devices
        return crosses and not (named.get("non_blocking") and target.type == "meta")
    if function is aten.copy_.default:
        return len(devices) > 1 and not (arguments[2:] == (True,) or named.get("non_blocking"))
    return False


class StepsTakenError(Exception):
    """The steps that a test wants were taken."""


@contextmanager
def steps_on_meta(
    task: Task, data: Any, patch: pytest.MonkeyPatch, num_steps: int = 2, **flags: Any
) -> Iterator[Waits]:
    """Train some steps on the meta device, and return what waited within them.

    Only whole training steps are recorded, with their forward and backward passes, clipping and update.
    """
    patch.setattr(tasks, "peak_operations", lambda *_: 1.0)
    fused = optimizer._get_fused_kernels_supported_devices
    patch.setattr(optimizer, fused.__name__, lambda: [*fused(), "meta"])
    step: Callable[..., Any] = task.training_step
    waits, taken = Waits(), []

    def recorded(*arguments: Any) -> Any:
        if len(taken) == num_steps:
            raise StepsTakenError
        taken.append(1)
        with waits:
            return step(*arguments)

    patch.setattr(task, "training_step", recorded)
    # Lightning reads it from the device.
    patch.setattr(fit_loop, "has_len_all_ranks", lambda *_: True)
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    limits = {"num_sanity_val_steps": 0, "limit_val_batches": 0, "max_epochs": 1}
    trainer = Trainer(strategy=MetaStrategy(), **quiet, **limits, **flags)
    with pytest.raises(StepsTakenError):
        trainer.fit(task, data)
    yield waits
