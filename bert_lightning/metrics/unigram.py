"""Baseline of masked language modelling: predictions from token frequencies alone."""

import torch
from torch import Tensor
from torchmetrics import Metric


class UnigramBaseline(Metric):
    """Loss and accuracy of a model that uses only the frequency of each token in the training text.

    The loss is the cross-entropy (nats) under add-one smoothed frequencies. The prediction is always the most
    frequent token.

    Args:
        counts: (V,) occurrences in the training text.
    """

    higher_is_better = None
    full_state_update = False
    loss_sum: Tensor
    correct: Tensor
    total: Tensor

    def __init__(self, counts: Tensor) -> None:
        super().__init__()
        smoothed = counts.double() + 1
        self.register_buffer("log_probabilities", (smoothed / smoothed.sum()).log().float(), persistent=False)
        self.most_frequent = int(counts.argmax())
        for name in ("loss_sum", "correct", "total"):
            self.add_state(name, torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, labels: Tensor) -> None:
        """Add masked tokens.

        Args:
            labels: (M,) ids of the tokens that are masked.
        """
        log_probabilities = self.get_buffer("log_probabilities")
        self.loss_sum -= log_probabilities[labels].sum()
        self.correct += (labels == self.most_frequent).sum()
        self.total += labels.numel()

    def compute(self) -> dict[str, Tensor]:
        """Return `loss` and `accuracy`."""
        return {"loss": self.loss_sum / self.total, "accuracy": self.correct / self.total}
