"""A teacher's logits for all training sequences, kept in a file, so that they are computed once."""

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from lightning.fabric.utilities import move_data_to_device
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from bert_lightning.checkpoints.digests import weights_digest
from bert_lightning.checkpoints.files import write_atomically
from bert_lightning.data.loading.batching import Batch
from bert_lightning.distributed.collectives import process_rank
from bert_lightning.errors import InputError, WorkError
from bert_lightning.tasks.distributions import Distribution
from bert_lightning.tasks.fine_tuning.splits import EncodedSplit
from bert_lightning.tasks.inference import without_padding
from bert_lightning.tasks.task import Task

# Sequences that the teacher computes together. The last bits of its logits depend on this number, so it is fixed.
BATCH_SIZE = 32


class LogitCache:
    """The logits of a teacher for the sequences of a training split.

    They are computed at the first step, in fixed batches of sequences of similar length, and written to a file. So
    they are a function of teacher, data and precision, whatever the batches of training are. The name of the file is
    a hash of all three, so another teacher or other data never read it.

    Args:
        folder: holds the files.
        split: the training split.
        teacher: identifies the teacher: the SHA-256 of its weights, and the settings that decide what it computes.
        precision: the precision of the training.
    """

    def __init__(self, folder: Path, split: EncodedSplit[Any], teacher: str, precision: str) -> None:
        self.folder = folder
        self.split = split
        self.teacher = teacher
        self.precision = precision
        self._logits: dict[str, Tensor] | None = None

    @cached_property
    def path(self) -> Path:
        """The file of this teacher, data and precision."""
        digest = hashlib.sha256(f"{self.teacher}\n{self.precision}\n{BATCH_SIZE}".encode())
        for batch in self._batches():
            values: dict[str, Any] = dict(batch)
            for name in sorted(values):
                if isinstance(values[name], Tensor):
                    digest.update(f"{name} {tuple(values[name].shape)}".encode())
                    digest.update(values[name].contiguous().numpy().tobytes())
        return self.folder / f"logits-{digest.hexdigest()[:32]}.safetensors"

    def read(self, teacher: Task, batch: Batch, student: Sequence[Distribution]) -> list[Distribution]:
        """Return the teacher's distributions for a micro-batch, with the shapes of the student's.

        Raises:
            InputError: the file is damaged.
            WorkError: the file cannot be written.
        """
        device = batch["input_ids"].device
        if self._logits is None:
            kept = self._kept(teacher.distribution_names)
            self._logits = kept if kept is not None else self._computed(teacher, device)
            self._logits = {name: logits.to(device) for name, logits in self._logits.items()}
        numbers = batch["numbers"]
        return [
            Distribution(_fitted(logits[numbers], mine.logits.shape))
            for mine, logits in zip(student, self._logits.values(), strict=True)
        ]

    def _kept(self, names: Sequence[str]) -> dict[str, Tensor] | None:
        """Return the logits of the file in the order of their losses; None if there is no file.

        Raises:
            InputError: the file is damaged.
        """
        if not self.path.exists():
            return None
        try:
            content = load(self.path.read_bytes())
            digest = bytes(content.pop("sha256").tolist()).hex()
        except (OSError, SafetensorError, KeyError) as error:
            raise InputError(f"{self.path} cannot be read ({error}): delete it, and it is computed again") from None
        if {*content} != {*names} or weights_digest(content) != digest:
            raise InputError(f"{self.path} is damaged: delete it, and it is computed again")
        return {name: content[name] for name in names}

    def _computed(self, teacher: Task, device: torch.device) -> dict[str, Tensor]:
        """Compute the logits (sequences, ...) of each loss. The first process writes them to the file.

        Raises:
            WorkError: the file cannot be written.
        """
        teacher.to(device)
        found: dict[str, list[Tensor]] = {name: [] for name in teacher.distribution_names}
        with torch.no_grad(), without_padding(teacher):
            for batch in self._batches():
                moved = move_data_to_device(batch, device)
                distributions = teacher.distributions(teacher.compute(moved), moved)
                for logits, each in zip(found.values(), distributions, strict=True):
                    logits.append(each.logits.cpu())
        teacher.cpu()
        order = torch.from_numpy(self.split.by_length)
        computed = {name: _in_order(logits, order) for name, logits in found.items()}
        if process_rank() == 0:
            digest = torch.tensor([*bytes.fromhex(weights_digest(computed))], dtype=torch.uint8)
            content = save({**computed, "sha256": digest})
            try:
                write_atomically(self.path, lambda file: file.write(content))
            except OSError as error:
                raise WorkError(f"distillation.cache: {error.filename}: {error.strerror}") from None
        return computed

    def _batches(self) -> Iterator[Batch]:
        order = self.split.by_length
        for numbers in np.split(order, range(BATCH_SIZE, len(order), BATCH_SIZE)):
            yield self.split.batch(numbers)


def _in_order(of_batches: Sequence[Tensor], order: Tensor) -> Tensor:
    """Join logits (n, ...) of batches, padded to the largest. Row i becomes row `order[i]`; `order` is (N,)."""
    sizes = [max(each.shape[dim] for each in of_batches) for dim in range(1, of_batches[0].dim())]
    joined = torch.cat([_fitted(each, torch.Size([len(each), *sizes])) for each in of_batches])
    return torch.empty_like(joined).index_copy(0, order, joined)


def _fitted(logits: Tensor, shape: torch.Size) -> Tensor:
    """Cut or pad logits to a shape. What is cut or added belongs to padding, which no loss counts."""
    cut = logits[tuple(slice(size) for size in shape)]
    missing = [size - own for size, own in zip(shape, cut.shape, strict=True)]
    return F.pad(cut, [number for each in reversed(missing) for number in (0, each)]) if any(missing) else cut
