"""Protection of the weights from updates that are not finite, and warnings about jumps of the loss."""

import logging
import math
import statistics
import textwrap
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bert_lightning.checkpoints.files import write_json
from bert_lightning.distributed.collectives import gather_objects, process_rank
from bert_lightning.distributed.slices import local, norms
from bert_lightning.errors import SharedWorkError

log = logging.getLogger(__name__)
# After this many skipped steps in a row, the cause is not a single batch: training has diverged.
MOST_SKIPPED_IN_A_ROW = 10
# The largest and the smallest number of earlier log intervals that a loss is compared with.
_NUM_COMPARED, _FEWEST_COMPARED = 20, 5
# Keys of a checkpoint. They stay as they are, so that old checkpoints can be read.
_LOSSES_KEY, _SKIPPED_KEY, _IN_A_ROW_KEY = "loss_windows", "skipped_steps", "skipped_in_a_row"


class GradientNorms(NamedTuple):
    """The norm of the gradient of each parameter that has one."""

    parameters: list[nn.Parameter]
    values: Tensor
    """(n,) in float32 at least"""

    def total(self) -> Tensor:
        """Return the global norm, ()."""
        return torch.linalg.vector_norm(self.values) if self.parameters else torch.zeros(())


def gradient_norms(parameters: Iterable[nn.Parameter]) -> GradientNorms:
    """Return the norms of the gradients.

    Unlike those of `torch.nn.utils`, they cover the slices of all processes, and are computed in float32 if gradients
    are narrower.
    """
    trained = [parameter for parameter in parameters if parameter.grad is not None]
    gradients = [local(parameter.grad) for parameter in trained if parameter.grad is not None]
    return GradientNorms(trained, norms(gradients, trained) if gradients else torch.zeros(0))


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Return the global norm of the gradients, ()."""
    return gradient_norms(parameters).total()


def limit_gradients(parameters: Iterable[nn.Parameter], norm: Tensor, largest: float | None) -> None:
    """Scale the gradients in place so that their global norm is at most `largest`.

    Lightning's clipping refuses fused optimisers under autocast. On a CPU the norm can be read without waiting, so
    gradients within the limit are not multiplied by 1.

    Args:
        parameters: those whose gradients are scaled.
        norm: the global norm of all gradients, ().
        largest: the limit; None for no limit.
    """
    # torch adds the same 1e-6.
    if largest is None or (norm.device.type == "cpu" and norm + 1e-6 <= largest):
        return
    gradients = [local(parameter.grad) for parameter in parameters if parameter.grad is not None]
    if gradients:
        torch._foreach_mul_(gradients, (largest / (norm + 1e-6)).clamp(max=1.0))


class _Step(NamedTuple):
    """The values of one step that decide about its update and go into its report."""

    number: int
    finite: Tensor
    overflowed: Tensor | None
    losses: Tensor
    samples: list[Any]


class FiniteSteps:
    """The check of each update before it reaches the weights, and the report of a batch whose update is skipped.

    The device computes whether loss and gradients are finite. On a CPU the result is read at once. On an accelerator
    that would mean waiting for it. The optimisers of this package therefore leave such a step out on the device
    (`found_inf`). The result is read at the end of the log interval and before a checkpoint is written. Only with an
    optimiser that ignores `found_inf`, such as a custom one, each step waits.

    Attributes:
        folder: where the report of a batch is written.
        skips: skip a step that is not finite and continue, rather than stop.
        num_skipped: steps skipped so far.
        num_in_a_row: skipped steps since the last update.
    """

    def __init__(self) -> None:
        self.folder = Path()
        self.skips = False
        self.num_skipped = 0
        self.num_in_a_row = 0
        self._unread: list[_Step] = []

    def admits(
        self,
        step: int,
        finite: Tensor,
        losses: Tensor,
        optimizer: torch.optim.Optimizer,
        batches: Sequence[Mapping[str, Any]],
        model: nn.Module,
        overflowed: Tensor | None = None,
    ) -> bool:
        """Return whether the optimiser may update the weights.

        Args:
            step: the optimiser step, from 1.
            finite: () bool: whether loss and gradients of all processes are finite.
            overflowed: () bool: whether only the scale of the loss made a gradient overflow. Such a step is left out
                without a report. None if the loss is not scaled.
            losses: (L,) the losses, summed over this process's micro-batches.
            optimizer: the optimiser that would take the step.
            batches: the micro-batches of this process.
            model: the model; the report names its gradients that are not finite.

        Raises:
            SharedWorkError: the loss or a gradient is not finite, and training must stop.
        """
        parts = [part for batch in batches for part in (batch, batch.get("unlabelled", {}))]
        samples = [part["samples"] for part in parts if "samples" in part]
        this = _Step(step, finite, overflowed, losses, samples)
        if _skips_by_itself(finite.device, optimizer):
            optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
            self._unread.append(this)
            return True
        return self._judge(this, model)

    def read(self) -> None:
        """Wait for the device, and report the steps that it has skipped since the last call.

        Called by all processes.

        Raises:
            SharedWorkError: it skipped a step, and training must stop.
        """
        unread, self._unread = self._unread, []
        for step in unread:
            self._judge(step, None)

    def state(self) -> dict[str, int]:
        """Return the entries of a checkpoint."""
        return {_SKIPPED_KEY: self.num_skipped, _IN_A_ROW_KEY: self.num_in_a_row}

    def load_state(self, checkpoint: Mapping[str, Any]) -> None:
        """Continue with the counts of a checkpoint; checkpoints of earlier versions have none."""
        self.num_skipped = checkpoint.get(_SKIPPED_KEY, 0)
        self.num_in_a_row = checkpoint.get(_IN_A_ROW_KEY, 0)

    def _judge(self, step: _Step, model: nn.Module | None) -> bool:
        if step.finite:
            self.num_in_a_row = 0
            return True
        if step.overflowed is not None and step.overflowed:
            return False
        self.num_skipped += 1
        self.num_in_a_row += 1
        what = f"step {step.number}: {self._report(step, model)}; the weights were not updated"
        if not self.skips:
            raise SharedWorkError(f"{what}. To skip such steps and continue: --trainer.non_finite skip")
        if self.num_in_a_row == MOST_SKIPPED_IN_A_ROW:
            raise SharedWorkError(f"{what}. {self.num_in_a_row} steps in a row were skipped: training has diverged")
        if process_rank() == 0:
            log.warning("%s", what)
        return False

    def _report(self, step: _Step, model: nn.Module | None) -> str:
        """Write the report for the batches of all processes; return a short form of it for a message."""
        report = {
            "losses": step.losses.tolist(),
            "gradients": [
                name
                for name, parameter in (model.named_parameters() if model is not None else ())
                if parameter.grad is not None and not local(parameter.grad).isfinite().all()
            ],
            "samples": [each.tolist() for each in step.samples],
        }
        processes = gather_objects(report)
        path = self.folder / f"non-finite-step-{step.number:09d}.json"
        written = f"all of them are in {path}"
        try:
            if process_rank() == 0:
                write_json(path, {"step": step.number, "processes": processes})
        except OSError as error:
            written = f"{path}: cannot be written: {error.strerror or error}"
        losses = [loss for process in processes for loss in process["losses"]]
        what = "a gradient is not finite" if all(map(math.isfinite, losses)) else "the loss is not finite"
        # Name each sample once: with tensor parallelism, several processes have the same samples.
        samples = [str(sample) for process in processes for batch in process["samples"] for sample in batch]
        shown = textwrap.shorten(", ".join(dict.fromkeys(samples)), 80, placeholder=" ...")
        return f"{what} (samples {shown}; {written})"


def _skips_by_itself(device: torch.device, optimizer: torch.optim.Optimizer) -> bool:
    return device.type != "cpu" and getattr(optimizer, "leaves_out_non_finite", False)


class LossSpikes:
    """Warnings about a log interval whose mean loss jumps above that of the intervals before it.

    It jumps if it exceeds their median by more than six times their median deviation, and by more than a tenth of the
    median. Without a spike, the loss of an interval varies by less than that, and it falls rather than rises.

    Attributes:
        losses: the mean losses of the latest log intervals.
    """

    def __init__(self) -> None:
        self.losses: deque[float] = deque(maxlen=_NUM_COMPARED)

    def add(self, step: int, loss: float) -> None:
        """Compare the mean loss of the log interval that ended with `step`, and store it."""
        if len(self.losses) >= _FEWEST_COMPARED:
            median = statistics.median(self.losses)
            deviation = statistics.median(abs(each - median) for each in self.losses)
            # All processes have the same loss, so only the first one warns.
            if loss > median + max(6 * deviation, 0.1 * abs(median)) and process_rank() == 0:
                log.warning("step %d: the training loss jumped to %.4g from about %.4g", step, loss, median)
        if math.isfinite(loss):
            self.losses.append(loss)

    def state(self) -> dict[str, list[float]]:
        """Return the entry of a checkpoint."""
        return {_LOSSES_KEY: list(self.losses)}

    def load_state(self, checkpoint: Mapping[str, Any]) -> None:
        """Continue with the losses of a checkpoint; those of earlier versions have none."""
        self.losses.clear()
        self.losses.extend(checkpoint.get(_LOSSES_KEY, ()))
