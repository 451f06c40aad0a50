"""What tasks share whose every example is one of several classes or choices."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from bert_lightning.data.loading.batching import Batch
from bert_lightning.tasks.fine_tuning.task import FineTuningTask


class OneOfSeveralTask(FineTuningTask):
    """Cross-entropy over (B, L) scores, and the share of examples whose highest score is the right one's."""

    progress_scores = (("train/accuracy", "accuracy", ".1%"),)
    loss_names = ("loss", "accuracy")

    def counts(self, batch: Batch) -> Tensor:
        """Examples, for the loss and the accuracy."""
        return torch.full((2,), len(batch["labels"]), device=batch["labels"].device)

    def sums_of(self, computed: Tensor, batch: Batch) -> Tensor:
        """Loss, examples right."""
        labels = batch["labels"]
        loss = F.cross_entropy(computed, labels, reduction="sum")
        return torch.stack([loss, (computed.detach().argmax(-1) == labels).sum().to(loss.dtype)])


def softmax(scores: NDArray[np.float32]) -> NDArray[Any]:
    """(L,) probabilities of (L,) scores, in float64."""
    exponentials = np.exp(scores.astype(np.float64) - scores.max())
    return exponentials / exponentials.sum()
