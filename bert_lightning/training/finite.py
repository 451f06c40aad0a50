"""What is not finite never reaches the weights, and what jumps is told."""

import logging
import math
import statistics
import textwrap
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from bert_lightning.checkpoints.files import write_json
from bert_lightning.distributed.collectives import of_all_ranks
from bert_lightning.distributed.slices import local, norms
from bert_lightning.errors import SharedWorkError

log = logging.getLogger(__name__)
# So many steps in a row are not a batch gone wrong, but a training that has diverged.
MOST_SKIPPED_IN_A_ROW = 10
# Log windows that a loss is compared with.
_WINDOWS, _FEWEST_WINDOWS = 20, 5
Batch = dict[str, Any]


def clip_gradients(parameters: Iterable[nn.Parameter], largest: float | None) -> Tensor:
    """Scale the gradients, in place, so that their global norm is at most `largest`; () the norm they had.

    As `torch.nn.utils.clip_grad_norm_`, which Lightning's own refuses under autocast with fused optimisers, over the
    rows of all processes, and in float32 where gradients are narrower. On a processor, where the norm is at hand,
    gradients that are short enough are not multiplied by 1.
    """
    moved = [parameter for parameter in parameters if parameter.grad is not None]
    gradients = [local(parameter.grad) for parameter in moved if parameter.grad is not None]
    if not gradients:
        return torch.zeros(())
    norm = torch.linalg.vector_norm(norms(gradients, moved))
    # The small number is torch's own.
    if largest is not None and (norm.device.type != "cpu" or not norm + 1e-6 <= largest):
        torch._foreach_mul_(gradients, (largest / (norm + 1e-6)).clamp(max=1.0))
    return norm


class FiniteSteps:
    """Decides over each update, and reports the batch of one that is not made.

    Whether loss and gradients are finite is known to the device. A processor is asked at once; an accelerator would
    have to be waited for, so with the fused AdamW it leaves the update out itself (`found_inf`), and is asked at the
    end of the log window, and before a checkpoint is written.

    Attributes:
        folder: where the report of a batch goes.
        skips: go on with the next batch rather than stop.
        num_skipped: steps left out so far.
        num_in_a_row: of them, those since the last that was not.
    """

    def __init__(self) -> None:
        self.folder = Path()
        self.skips = False
        self.num_skipped = 0
        self.num_in_a_row = 0
        self._unread: list[tuple[int, Tensor, Tensor, list[Any]]] = []

    def admits(
        self, step: int, finite: Tensor, sums: Tensor, optimizer: Any, batches: Sequence[Batch], model: nn.Module
    ) -> bool:
        """Whether the optimiser may move the weights.

        Args:
            step: the optimiser step, from 1.
            finite: () bool, of loss and gradients over all ranks.
            sums: (K,) the losses, summed over this rank's micro-batches.
            optimizer: torch's.
            batches: the micro-batches of this rank.
            model: whose gradients are named where they are not finite.

        Raises:
            SharedWorkError: it may not, and training is to stop.
        """
        samples = [batch["samples"] for batch in batches if "samples" in batch]
        if _leaves_out_itself(finite.device, optimizer):
            optimizer.found_inf = (~finite).float()
            self._unread.append((step, finite, sums, samples))
            return True
        return self._judge(step, finite, sums, samples, model)

    def read(self) -> None:
        """Wait for what the device left out since; called by all processes at once.

        Raises:
            SharedWorkError: it left out an update, and training is to stop.
        """
        unread, self._unread = self._unread, []
        for step, finite, sums, samples in unread:
            self._judge(step, finite, sums, samples, None)

    def _judge(self, step: int, finite: Tensor, sums: Tensor, samples: list[Any], model: nn.Module | None) -> bool:
        if finite:
            self.num_in_a_row = 0
            return True
        self.num_skipped += 1
        self.num_in_a_row += 1
        what = f"step {step}: {self._report(step, sums, samples, model)}; it moved no weight"
        if not self.skips:
            raise SharedWorkError(f"{what}. To leave such batches out: --trainer.non_finite skip")
        if self.num_in_a_row == MOST_SKIPPED_IN_A_ROW:
            raise SharedWorkError(f"{what}. That is the {self.num_in_a_row}th step in a row: training has diverged")
        if _rank() == 0:
            log.warning("%s", what)
        return False

    def _report(self, step: int, sums: Tensor, samples: list[Any], model: nn.Module | None) -> str:
        """Write down the batches of all processes; what was not finite and where that is written."""
        own = {
            "losses": sums.tolist(),
            "gradients": [
                name
                for name, parameter in (model.named_parameters() if model is not None else ())
                if parameter.grad is not None and not local(parameter.grad).isfinite().all()
            ],
            "samples": [each.tolist() for each in samples],
        }
        processes = of_all_ranks(own)
        path = self.folder / f"non-finite-step-{step:09d}.json"
        written = f"{path} holds them all"
        try:
            if _rank() == 0:
                write_json(path, {"step": step, "processes": processes})
        except OSError as error:
            written = f"{path}: {error.strerror or error}"
        losses = [loss for process in processes for loss in process["losses"]]
        what = "a gradient is not finite" if all(map(math.isfinite, losses)) else "the loss is not finite"
        # Once each: processes that share heads have the same.
        every = [str(sample) for process in processes for batch in process["samples"] for sample in batch]
        shown = textwrap.shorten(", ".join(dict.fromkeys(every)), 80, placeholder=" ...")
        return f"{what} (samples {shown}; {written})"


def _leaves_out_itself(device: torch.device, optimizer: Any) -> bool:
    if device.type == "cpu" or not isinstance(optimizer, torch.optim.AdamW):
        return False
    if not all(group["fused"] for group in optimizer.param_groups):
        return False
    # Its kernel over shared rows is not known to heed `found_inf`.
    return not any(isinstance(each, DTensor) for group in optimizer.param_groups for each in group["params"])


def _rank() -> int:
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


class LossSpikes:
    """Warns when the mean loss of a log window stands out from those before it.

    More than six times their median deviation above their median, and a tenth of it: by itself the loss of a window
    wanders by less, and it falls rather than rises.
    """

    def __init__(self) -> None:
        self.windows: deque[float] = deque(maxlen=_WINDOWS)

    def add(self, step: int, loss: float) -> None:
        """Take the mean loss of the window that ended with a step."""
        if len(self.windows) >= _FEWEST_WINDOWS:
            middle = statistics.median(self.windows)
            deviation = statistics.median(abs(each - middle) for each in self.windows)
            # The loss is that of all ranks.
            if loss > middle + max(6 * deviation, 0.1 * abs(middle)) and _rank() == 0:
                log.warning("step %d: the training loss jumped to %.4g from about %.4g", step, loss, middle)
        if math.isfinite(loss):
            self.windows.append(loss)
