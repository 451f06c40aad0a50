"""The mean logits of several teachers, each of which reads the training examples in its own form."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bert_lightning.data.datasets.examples import LabelledText
from bert_lightning.data.loading.batching import Batch
from bert_lightning.methods.distillation.cache import BATCH_SIZE
from bert_lightning.tasks.distributions import Distribution, one_of
from bert_lightning.tasks.fine_tuning.splits import EncodedSplit
from bert_lightning.tasks.task import Task
from bert_lightning.tasks.text_classification.task import TextClassificationTask


class EnsembleLogits:
    """The mean logits of teachers for the sequences of a training split.

    Schick and Schütze 2021, arXiv 2001.07676, section 3.4. The logits are computed at the first step of a
    session, in fixed batches. So they depend only on teachers and data, whatever the batches of the training are.

    Args:
        teachers: classifiers of labelled texts.
        labels: the labels of the student. A teacher may have them in another order.
        split: the training split of the student.
        weights: of each teacher; without weights they count equally (the paper's "uniform").
        known: (m, L) the mean logits of the last m examples, if they have been computed.
    """

    def __init__(
        self,
        teachers: Sequence[TextClassificationTask],
        labels: Sequence[str],
        split: EncodedSplit[Any],
        weights: Sequence[float] = (),
        known: Tensor | None = None,
    ) -> None:
        self.teachers, self.labels, self.split, self.weights = list(teachers), list(labels), split, weights
        self._known = known if known is not None else torch.empty(0, len(labels))
        self._logits: Tensor | None = None

    def read(self, teacher: Task, batch: Batch, student: Sequence[Distribution]) -> list[Distribution]:
        """Return the mean of the teachers' distributions for a micro-batch."""
        device = batch["input_ids"].device
        if self._logits is None:
            self._logits = self.logits(device).to(device)
        return [one_of(self._logits[batch["numbers"]])]

    def logits(self, device: torch.device) -> Tensor:
        """Return (n, L) the mean logits of all examples, with the labels in the student's order."""
        unknown = self.split.examples[: len(self.split.examples) - len(self._known)]
        computed = mean_logits(self.teachers, self.labels, unknown, device, self.weights)
        return torch.cat([computed, self._known])


def mean_logits(
    teachers: Sequence[TextClassificationTask],
    labels: Sequence[str],
    examples: Sequence[LabelledText],
    device: torch.device,
    weights: Sequence[float] = (),
) -> Tensor:
    """Return (n, L) the mean logits of teachers for examples, on the processor.

    Args:
        teachers: classifiers of labelled texts, each of which reads the examples in its own form.
        labels: the order of the labels. A teacher may have them in another order.
        examples: the texts; their labels are not used.
        device: where the teachers compute, one after the other.
        weights: of each teacher; without weights they count equally.
    """
    weights = weights or [1.0] * len(teachers)
    total = torch.zeros(len(examples), len(labels))
    for teacher, weight in zip(teachers, weights, strict=True):
        teacher.to(device)
        encoded = teacher.encode(list(examples))
        outputs = torch.from_numpy(np.stack(teacher.outputs_for(encoded, BATCH_SIZE)))
        teacher.cpu()
        order = [teacher.labels.index(label) for label in labels]
        total += weight * outputs[:, order].float()
    return total / sum(weights)
