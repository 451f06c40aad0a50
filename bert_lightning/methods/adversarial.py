"""Adversarial training: a second pass over embeddings that are perturbed in the direction in which the loss rises."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from bert_lightning.checks import require_at_least
from bert_lightning.data.loading.batching import Batch
from bert_lightning.model.layers.packing import Packing, pad
from bert_lightning.tasks.step_method import BackwardPass, StepMethod, beside_total
from bert_lightning.tasks.task import Task


class AdversarialSettings(Protocol):
    """Settings of adversarial training. `adversarial.class_path` can name a dataclass with these attributes."""

    def wrap(self, method: StepMethod, task: Task) -> StepMethod:
        """Return a step method that trains against perturbations.

        Args:
            method: the step method without perturbations.
            task: holds the model whose embeddings are perturbed.
        """


@dataclass(frozen=True)
class NoAdversary:
    """Training without perturbations."""

    def wrap(self, method: StepMethod, task: Task) -> StepMethod:
        """Return the method as it is."""
        return method


@dataclass(frozen=True)
class FastGradient:
    """The fast gradient method (FGM): Miyato et al. 2017, arXiv 1605.07725, section 3.

    The loss is L(e) + `weight` * L(e + r) with r = `epsilon` * g / |g|. Here e are the embeddings of a sequence, and
    g is the gradient of L(e) with respect to e. The gradient of L(e + r) treats r as a constant.

    The paper perturbs word embeddings that are normalised by the frequencies of the words. Here e is the input of the
    first block, after LayerNorm and dropout. |g| is the norm over all tokens and features of one sequence.

    Attributes:
        epsilon: the Euclidean norm of the perturbation of each sequence.
        weight: factor on the loss of the perturbed pass.
        special_tokens: whether [CLS] and [SEP] are perturbed too. Padding never is.
    """

    epsilon: float = 1.0
    weight: float = 1.0
    special_tokens: bool = True

    def __post_init__(self) -> None:
        require_at_least(self, 0, "epsilon", "weight")

    def wrap(self, method: StepMethod, task: Task) -> StepMethod:
        """Return the method with a second, perturbed pass."""
        return FastGradientStep(method, task, self)


ADVERSARIES: dict[str, type] = {"none": NoAdversary, "fgm": FastGradient}
"""Value of `adversarial.name` -> its settings."""


class FastGradientStep:
    """A step method that applies another one twice: to the embeddings, and to the perturbed embeddings.

    The first application adds zeros to the embeddings. The gradient of these zeros is that of the embeddings, so no
    further pass is needed. Both applications draw the same dropout masks. The perturbed losses are further losses,
    called `adversarial_...`, with the counts of the others.

    Args:
        method: the step method that is applied.
        task: holds the model. A forward pass must call its encoder once, on the `input_ids` of the batch.
        settings: size and weight of the perturbation.
    """

    def __init__(self, method: StepMethod, task: Task, settings: FastGradient) -> None:
        self.method = method
        self.task = task
        self.settings = settings

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
        """Those of the method, and again times `weight`."""
        factors = self.method.loss_factors
        return [*factors, *(factor * self.settings.weight for factor in factors)]

    def counts(self, batch: Batch) -> Tensor:
        """Return (K,) the counts of the method, with those of the losses twice."""
        counts, number = self.method.counts(batch), self.method.num_losses
        return torch.cat([counts[:number], counts])

    def sums(self, batch: Batch, backward: BackwardPass) -> Tensor:
        """Return (K,) the sums, after the backward passes of both applications of the method."""
        encoder, number = self.task.model.backbone, self.method.num_losses
        shape = (*batch["input_ids"].shape, encoder.config.hidden_size)
        # In at least float32, in which norms are exact enough; the encoder casts it.
        kind = torch.promote_types(encoder.embeddings.word.weight.dtype, torch.float32)
        nothing = torch.zeros(shape, dtype=kind, device=batch["input_ids"].device, requires_grad=True)

        def clean(losses: Tensor, *, is_last: bool = True) -> None:
            backward(torch.cat([losses, torch.zeros_like(losses)]), is_last=False)

        def perturbed(losses: Tensor, *, is_last: bool = True) -> None:
            backward(torch.cat([torch.zeros_like(losses), losses]), is_last=is_last)

        with encoder.perturbed(nothing):
            sums = self.method.sums(batch, clean)
        assert nothing.grad is not None, "the losses depend on the embeddings"
        gradient = nothing.grad * self._perturbable(batch)[..., None]
        perturbation = self.settings.epsilon * directions(gradient, batch.get("packing"))
        # The micro-batch began with this seed, so the second pass draws the masks of the first.
        torch.manual_seed(torch.initial_seed())
        with encoder.perturbed(perturbation):
            of_perturbed = self.method.sums(batch, perturbed)
        return torch.cat([sums[:number], of_perturbed[:number], sums[number:]])

    def operations(self, batch: Batch, num_passes: int = 1) -> float:
        """Return the operations of two applications of the method."""
        return self.method.operations(batch, 2 * num_passes)

    def _perturbable(self, batch: Batch) -> Tensor:
        """Return bool of the shape of `input_ids`: True at the tokens that may be perturbed."""
        ids, mask = batch["input_ids"], batch.get("attention_mask")
        allowed = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
        if not self.settings.special_tokens:
            allowed = allowed & (ids != self.task.tokenizer.cls_id) & (ids != self.task.tokenizer.sep_id)
        return allowed


def directions(gradient: Tensor, packing: Packing | None = None) -> Tensor:
    """Scale the gradient of each sequence to the norm 1: (..., S, H), or packed (T, H), keeps its shape.

    A gradient of 0 stays 0. A gradient that is not finite becomes 0, so the perturbed loss stays finite. The update
    then finds the gradient of the first pass.

    >>> directions(torch.tensor([[[3.0, 0.0], [0.0, 4.0]], [[0.0, 0.0], [0.0, 0.0]]])).tolist()
    [[[0.6..., 0.0], [0.0, 0.8...]], [[0.0, 0.0], [0.0, 0.0]]]
    """
    if not gradient.numel():
        return gradient
    padded, indices = (gradient, None) if packing is None else pad(gradient, packing)
    # Squares of small gradients would vanish, so divide by the largest value first.
    largest = padded.abs().amax((-2, -1), keepdim=True)
    usable = largest.isfinite() & (largest > 0)
    scaled = torch.where(usable, padded / torch.where(usable, largest, 1), 0)
    norms = torch.linalg.vector_norm(scaled, dim=(-2, -1), keepdim=True)
    result = scaled / torch.where(usable, norms, 1)
    return result if indices is None else result.flatten(0, 1)[indices]
