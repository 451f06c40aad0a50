"""The outputs of a split, brought to the host while the device computes the next batches."""

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import torch
from lightning.fabric.utilities.apply_func import apply_to_collection
from torch import Tensor

Value = TypeVar("Value")

# Batches whose outputs may be under way. Their host memory is small beside that of a model.
_MOST_UNDER_WAY = 8


class Outputs(Generic[Value]):
    """The output of each sequence of a split, by the number of the sequence.

    On CUDA the model's output and the batch are copied without blocking, and are read when their copies are complete.
    On other devices they are read at once.

    Args:
        outputs_of: returns one plain value for each sequence of a batch, from the model's output and the batch.
    """

    def __init__(self, outputs_of: Callable[[Any, Any], list[Value]]) -> None:
        self._outputs_of = outputs_of
        self._values: dict[int, Value] = {}
        self._under_way: deque[tuple[Any, Any, torch.cuda.Event]] = deque()

    def add(self, computed: Any, batch: Mapping[str, Any]) -> None:
        """Add the outputs of a batch, whose `numbers` are those of its sequences."""
        if not _copies_asynchronously(batch["numbers"]):
            self._read(computed, batch)
            return
        copies = on_host(computed), on_host(batch)
        copied = torch.cuda.Event()
        copied.record()
        self._under_way.append((*copies, copied))
        while self._under_way and (len(self._under_way) > _MOST_UNDER_WAY or self._under_way[0][2].query()):
            self._read_oldest()

    def take(self) -> dict[int, Value]:
        """Return the output of each sequence, and forget them."""
        while self._under_way:
            self._read_oldest()
        values, self._values = self._values, {}
        return values

    def _read_oldest(self) -> None:
        computed, batch, copied = self._under_way.popleft()
        copied.synchronize()
        self._read(computed, batch)

    def _read(self, computed: Any, batch: Mapping[str, Any]) -> None:
        self._values.update(zip(batch["numbers"].tolist(), self._outputs_of(computed, batch), strict=True))


def _copies_asynchronously(tensor: Tensor) -> bool:
    return tensor.device.type == "cuda"


def on_host(values: Any) -> Any:
    """Begin to copy all tensors of nested containers to the host. The copies may be read after a synchronisation."""
    return apply_to_collection(values, Tensor, lambda tensor: tensor.detach().to("cpu", non_blocking=True))
