"""The losses of a task together with those on the logits and the inner states of a teacher."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from bert_lightning.data.loading.batching import Batch
from bert_lightning.methods.distillation.cache import LogitCache
from bert_lightning.methods.distillation.ensemble import EnsembleLogits
from bert_lightning.methods.distillation.settings import DistillationSettings
from bert_lightning.methods.distillation.term import Needs, Rows, Term
from bert_lightning.model import BertEncoder
from bert_lightning.model.operations import forward_operations
from bert_lightning.model.recording import Recording
from bert_lightning.tasks.distributions import Distribution, divergence
from bert_lightning.tasks.inference import without_padding
from bert_lightning.tasks.step_method import beside_total
from bert_lightning.tasks.task import Task


class Taught(NamedTuple):
    """The predictions of the teacher for one micro-batch. Its inner states are in the recording."""

    batch: Batch
    distributions: list[Distribution]


class DistilledLosses:
    """The losses of a task on the labels, for each of them one on the logits of a teacher, and those on inner states.

    The teacher is not part of the task: optimiser, checkpoints and strategy do not see its parameters. Each process
    holds all of it. It computes in evaluation mode, without gradients, in the precision of the run. Projections are
    part of the task, as modules beside its model.

    Args:
        task: the student.
        teacher: a task of the same kind with another model; or an encoder, if `alpha` is 0.
        settings: temperature and weights.
        terms: key -> loss on inner states.
        cache: keeps the teacher's logits; None to compute them for each micro-batch.
    """

    def __init__(
        self,
        task: Task,
        teacher: Task | BertEncoder,
        settings: DistillationSettings,
        terms: Mapping[str, Term] | None = None,
        cache: LogitCache | EnsembleLogits | None = None,
    ) -> None:
        self.task = task
        self.teacher = teacher.eval().requires_grad_(False)
        self.settings = settings
        self.terms = dict(terms or {})
        self.cache = cache
        for name, term in self.terms.items():
            if term.projections:
                task.beside_model[name] = term.projections
        self._student = _recording(term.student for term in self.terms.values())
        self._teacher = _recording(term.teacher for term in self.terms.values())
        self._last: Taught | None = None

    @property
    def distribution_names(self) -> Sequence[str]:
        """The names of the losses on the teacher's logits: one per distribution, or none with `alpha` 0."""
        return self.task.distribution_names if self.settings.alpha else ()

    @property
    def loss_names(self) -> Sequence[str]:
        """The losses of the task, those of the teacher, and the other sums of the task."""
        number, names = self.task.num_losses, beside_total(self.task.loss_names, self.task.num_losses)
        distilled = [*self.distribution_names, *(name for term in self.terms.values() for name in term.names)]
        return [*names[:number], *(f"distillation_{name}" for name in distilled), *names[number:]]

    @property
    def num_losses(self) -> int:
        """The losses of the task and those of the teacher."""
        of_terms = sum(len(term.names) for term in self.terms.values())
        return self.task.num_losses + len(self.distribution_names) + of_terms

    @property
    def loss_factors(self) -> Sequence[float]:
        """(L,) the weight of the labels for the losses of the task, alpha for the logits, and those of the terms."""
        settings = self.settings
        of_task = [factor * settings.label_weight for factor in self.task.loss_factors]
        of_terms = [term.weight for term in self.terms.values() for _ in term.names]
        return [*of_task, *[settings.alpha] * len(self.distribution_names), *of_terms]

    def counts(self, batch: Batch) -> Tensor:
        """Return (K,) the counts of the task and, after its losses, those of the teacher's losses."""
        counts, number = self.task.counts(batch), self.task.num_losses
        distilled = [torch.tensor([count for term in self.terms.values() for count in term.counts(batch)])]
        if self.settings.alpha:
            distilled.insert(0, self.task.distribution_counts(batch))
        return torch.cat([counts[:number], *(each.to(counts.device) for each in distilled), counts[number:]])

    def sums(self, batch: Batch) -> Tensor:
        """Return (K,) the sums of the task and, after its losses, the differences from the teacher."""
        return self._sums(batch, predicts=self.settings.alpha > 0)[0]

    def sums_and_distributions(self, batch: Batch) -> tuple[Tensor, list[Distribution]]:
        """Return the sums, and what the student predicts in the same forward pass."""
        return self._sums(batch, predicts=True)

    def _sums(self, batch: Batch, *, predicts: bool) -> tuple[Tensor, list[Distribution]]:
        """Return the sums, and the predictions if they are asked for. Pre-training saves memory without them."""
        number = self.task.num_losses
        with self.task.model.backbone.recorded(self._student):
            sums, mine = self.task.sums_and_distributions(batch) if predicts else (self.task.sums(batch), [])
        compared = mine if self.settings.alpha else []
        expected = self._taught(batch, compared)
        distilled = [
            divergence(one, other, self.settings.temperature) for one, other in zip(compared, expected, strict=True)
        ]
        rows = Rows.of(batch)
        with torch.autocast(sums.device.type, enabled=False):
            for term in self.terms.values():
                distilled += term.sums(self._student, self._teacher, rows)
        self._student.clear()
        of_teacher = [each.to(sums.dtype).unsqueeze(0) for each in distilled]
        return torch.cat([sums[:number], *of_teacher, sums[number:]]), mine

    def operations(self, batch: Batch, num_passes: float = 1) -> float:
        """Return the operations of the task and, without a cache, of a teacher's pass. The losses do not count."""
        if self.cache is not None:
            return self.task.operations(batch, num_passes)
        scored = self.teacher.num_scored(batch) if isinstance(self.teacher, Task) else 0
        of_teacher = forward_operations(
            self.teacher.config, batch["num_tokens"], batch["num_token_pairs"], batch["num_sequences"], scored
        )
        return self.task.operations(batch, num_passes) + of_teacher

    def _taught(self, batch: Batch, mine: Sequence[Distribution]) -> list[Distribution]:
        """Return the teacher's predictions. If a step method makes several passes, they are computed once."""
        if self._last is None or self._last.batch is not batch:
            # Those of the micro-batch before are freed first.
            self._last = None
            self._teacher.clear()
            self._last = Taught(batch, self._predicted(batch, mine))
        return self._last.distributions

    def _predicted(self, batch: Batch, mine: Sequence[Distribution]) -> list[Distribution]:
        teacher, device = self.teacher, batch["input_ids"].device
        encoder = teacher if isinstance(teacher, BertEncoder) else teacher.model.backbone
        if self.cache is not None and isinstance(teacher, Task):
            return self.cache.read(teacher, batch, mine)
        if encoder.embeddings.word.weight.device != device:
            teacher.to(device)
        skipping = without_padding(teacher) if isinstance(teacher, Task) else encoder.without_padding()
        with torch.no_grad(), skipping, encoder.recorded(self._teacher):
            if isinstance(teacher, Task):
                computed = teacher.compute(batch)
                return teacher.distributions(computed, batch) if mine else []
            mask = batch.get("attention_mask")
            inputs = [
                each.flatten(0, -2) if each is not None and each.dim() > 1 else each
                for each in (batch["input_ids"], batch["token_type_ids"], mask)
            ]
            encoder(*inputs, batch.get("packing"))
            return []


def _recording(needs: Iterable[Needs]) -> Recording:
    """Return a recording of everything that some losses read."""
    read = list(needs)
    return Recording(
        [number for each in read for number in each.states], [number for each in read for number in each.blocks]
    )
