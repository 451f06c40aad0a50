"""The base of tasks in which each example is exactly one of several classes or choices."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bert_lightning.data.loading.batching import Batch
from bert_lightning.model.losses import summed_losses
from bert_lightning.tasks.distributions import Distribution, one_of
from bert_lightning.tasks.fine_tuning.task import FineTuningTask, Logits, Split


class OneOfSeveralTask(FineTuningTask[Split, Logits, Tensor]):
    """Base of tasks with a loss over (B, L) scores, by default a cross-entropy.

    The accuracy is the fraction of examples whose highest score is that of the gold class or choice.
    """

    progress_scores = (("train/accuracy", "accuracy", ".1%"),)
    loss_names = ("loss", "accuracy")
    distribution_names = ("loss",)
    loss_obstacle = None

    def counts(self, batch: Batch) -> Tensor:
        """Return (2,): the number of examples, for the loss and for the accuracy."""
        return torch.full((2,), len(batch["labels"]), device=batch["labels"].device)

    def sums_of(self, computed: Tensor, batch: Batch) -> Tensor:
        """Return (2,): the loss, and the number of examples whose highest score is the gold one."""
        labels = batch["labels"]
        loss = summed_losses(self.loss, computed, labels)
        return torch.stack([loss, (computed.detach().argmax(-1) == labels).sum().to(loss.dtype)])

    def distribution_counts(self, batch: Batch) -> Tensor:
        """Return (1,) the number of examples."""
        return self.counts(batch)[:1]

    def distributions(self, computed: Tensor, batch: Batch) -> list[Distribution]:
        """Return the probabilities of the classes or choices. A choice that is missing has the score -infinity."""
        return [one_of(computed, computed.isfinite())]


def softmax(scores: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the (L,) probabilities of (L,) scores, in float64.

    >>> softmax(np.array([0.0, 0.0], dtype=np.float32)).tolist()
    [0.5, 0.5]
    """
    exponentials: NDArray[np.float64] = np.exp(scores.astype(np.float64) - scores.max())
    return exponentials / exponentials.sum()
