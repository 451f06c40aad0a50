"""A custom task in one file: grades, which have an order but no distances.

K grades have K - 1 thresholds. For each threshold, the model predicts whether the grade is above it. So a guess that
is two grades off costs more than one that is one off (Niu et al. 2016, Ordinal regression with multiple output CNN).
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from bert_lightning import register_task
from bert_lightning.tasks import TextTask, TextTaskData


@dataclass(frozen=True)
class GradingData(TextTaskData):
    """Data of grading.

    Attributes:
        num_grades: the grades are the numbers from 1 to this one.
    """

    num_grades: int = 5


class Grading(TextTask):
    """Grades of texts."""

    name = "grading"
    data_settings = GradingData
    metric_names = ("absolute_error", "exact")
    monitor = "val/absolute_error"

    @classmethod
    def num_outputs(cls, settings):
        return settings.num_grades - 1

    @classmethod
    def target(cls, label, settings):
        if not 1 <= int(label) <= settings.num_grades:
            raise ValueError(f"grades are 1 to {settings.num_grades}")
        return int(label)

    def losses(self, scores, targets):
        above = targets[:, None] > torch.arange(1, scores.shape[1] + 1, device=targets.device)
        return F.binary_cross_entropy_with_logits(scores, above.to(scores.dtype), reduction="none").sum(1)

    def metrics(self, scores, targets):
        errors = np.abs(1 + (scores > 0).sum(1) - targets)
        return {"absolute_error": float(errors.mean()), "exact": float((errors == 0).mean())}

    def prediction(self, scores):
        return {"grade": 1 + int((scores > 0).sum())}


register_task(Grading.spec())
