"""The step of clean and perturbed losses: what the fast and the projected gradient method share."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from bert_lightning.data.loading.batching import Batch
from bert_lightning.methods.adversarial.applications import Ascent, OneOfSeveral, repeat_dropout
from bert_lightning.methods.adversarial.perturbations import no_perturbation, perturbable
from bert_lightning.tasks.step_method import BackwardPass, StepMethod, beside_total
from bert_lightning.tasks.task import Task

GradientAt = Callable[[Tensor], Tensor]
"""Function from a perturbation to the gradient of the loss there, which is 0 where nothing may be perturbed."""


class PerturbedStep(ABC):
    """A step method that applies another one twice: to the embeddings, and to the perturbed embeddings.

    The first application adds zeros to the embeddings. The gradient of these zeros is that of the embeddings, so no
    further pass is needed. All applications draw the same dropout masks. The perturbed losses are further losses,
    called `adversarial_...`, with the counts of the others.

    Args:
        method: the step method that is applied.
        task: holds the model. A forward pass must call its encoder once, on the `input_ids` of the batch.
        weight: factor on the perturbed losses.
        special_tokens: whether [CLS] and [SEP] are perturbed too.
    """

    def __init__(self, method: StepMethod, task: Task, *, weight: float, special_tokens: bool) -> None:
        self.method = method
        self.task = task
        self._weight = weight
        self._special_tokens = special_tokens

    @abstractmethod
    def perturbation(self, batch: Batch, gradient: Tensor, gradient_at: GradientAt) -> Tensor:
        """Return the perturbation of a batch, (..., S, H) or packed (T, H).

        Args:
            batch: the micro-batch.
            gradient: that of the loss at no perturbation.
            gradient_at: takes a forward and a backward pass.
        """

    @property
    def loss_names(self) -> Sequence[str]:
        """The losses of the method, the perturbed losses, and the other sums of the method."""
        number = self.method.num_losses
        names = self.method.loss_names
        perturbed = [f"adversarial_{name}" for name in names[:number]]
        names = beside_total(names, number)
        return [*names[:number], *perturbed, *names[number:]]

    @property
    def num_losses(self) -> int:
        """Twice that of the method."""
        return 2 * self.method.num_losses

    @property
    def loss_factors(self) -> Sequence[float]:
        """Those of the method, and again times the weight."""
        factors = self.method.loss_factors
        return [*factors, *(factor * self._weight for factor in factors)]

    def counts(self, batch: Batch) -> Tensor:
        """Return (K,) the counts of the method, with those of the losses twice."""
        counts, number = self.method.counts(batch), self.method.num_losses
        return torch.cat([counts[:number], counts])

    def sums(self, batch: Batch, backward: BackwardPass) -> Tensor:
        """Return (K,) the sums, after the backward passes of both applications of the method."""
        encoder, number = self.task.model.backbone, self.method.num_losses
        allowed = perturbable(self.task, batch, special_tokens=self._special_tokens)[..., None]

        def gradient_at(perturbation: Tensor) -> Tensor:
            ascent = Ascent(backward, _first, perturbation.detach().requires_grad_())
            repeat_dropout()
            with encoder.perturbed(ascent.perturbation):
                self.method.sums(batch, ascent)
            return ascent.found * allowed

        nothing = no_perturbation(self.task, batch).requires_grad_()
        with encoder.perturbed(nothing):
            sums = self.method.sums(batch, OneOfSeveral(backward, _first, ends=False))
        assert nothing.grad is not None, "the losses depend on the embeddings"
        perturbation = self.perturbation(batch, nothing.grad * allowed, gradient_at)
        repeat_dropout()
        with encoder.perturbed(perturbation):
            of_perturbed = self.method.sums(batch, OneOfSeveral(backward, _second, ends=True))
        return torch.cat([sums[:number], of_perturbed[:number], sums[number:]])

    def operations(self, batch: Batch, num_passes: float = 1) -> float:
        """Return the operations of two applications of the method."""
        return self.method.operations(batch, 2 * num_passes)


def _first(losses: Tensor) -> Tensor:
    return torch.cat([losses, torch.zeros_like(losses)])


def _second(losses: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(losses), losses])
