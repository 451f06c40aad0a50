"""SMART: predictions should stay the same if the embeddings move a little, or the weights since earlier steps."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bert_lightning.checks import require_at_least
from bert_lightning.data.loading.batching import Batch
from bert_lightning.methods.adversarial.adversary import Adversary, Passes, require_distributions
from bert_lightning.methods.adversarial.applications import OPERATIONS_OF_ASCENT, repeat_dropout
from bert_lightning.methods.adversarial.momentum_weights import MomentumWeights
from bert_lightning.methods.adversarial.noise import Noise
from bert_lightning.methods.adversarial.perturbations import (
    no_perturbation,
    per_sequence,
    perturbable,
    where_finite,
)
from bert_lightning.methods.compared_losses import ComparedLosses
from bert_lightning.tasks.distributions import Distribution, symmetric_divergence
from bert_lightning.tasks.step_method import CountedLosses
from bert_lightning.tasks.task import Task

# Keeps the perturbation of a token without gradient and noise at 0; from `mt_dnn/perturbation.py: SmartPerturbation`.
_LEAST_SIZE = 1e-6
_OPERATIONS_OF_FORWARD = 1 / 3
_MODULE = "momentum_weights"


@dataclass(frozen=True)
class Smart(Adversary):
    """SMART: Jiang et al. 2020, arXiv 1911.03437, equations 1 to 5 and algorithm 1.

    The loss is L(e) + `weight` * l(f(e), f(e + r)) + `proximal` * l(f(e), f~(e)). Here l is the symmetric divergence
    KL(P || Q) + KL(Q || P) of two predictions, and the squared error of a regression. The predictions f~ are those of
    the momentum weights, which follow the weights (`momentum_weights.py`).

    The perturbation r begins as normal noise with the deviation `sigma`. Each ascent follows the gradient g of
    l(f(e), f(e + r)), with f(e) held, and `projection` decides what becomes of it:

    - `unit`, as in the authors' code (`namisan/mt-dnn`, `mt_dnn/perturbation.py`): r = (r + `ascent_size` * g) / m,
      with the largest absolute value m of each token. So the largest number of each token is 1, whatever sigma and
      ascent_size are. Where predictions are smooth, g is as small as r, and with the published ascent_size r keeps
      almost the direction of its noise: the perturbation is then a random one.
    - `ball`, as in algorithm 1: r + `ascent_size` * g / max|g|, with the maximum over the sequence, and each number
      cut to +-`epsilon`. With the published epsilon bfloat16 rounds r away.

    In the authors' code, no gradient flows through the second argument of the two divergences in l. In the paper and
    here, gradients flow through both arguments.

    Attributes:
        weight: lambda, factor on the divergence of the perturbed pass; published are 1, 3 and 5.
        proximal: mu, factor on the divergence from the momentum weights; the published one is 1. 0 leaves it out.
        projection: `unit` or `ball`.
        epsilon: the largest number of a perturbation with `ball`, by default the published 1e-5.
        sigma: standard deviation of the noise.
        ascent_size: eta, the length of each ascent.
        num_ascents: the number of ascents.
        special_tokens: whether [CLS] and [SEP] are perturbed too. Padding never is.
    """

    weight: float = 1.0
    proximal: float = 0.0
    projection: Literal["unit", "ball"] = "unit"
    epsilon: float | None = None
    sigma: float = 1e-5
    ascent_size: float = 1e-3
    num_ascents: int = 1
    special_tokens: bool = True

    def __post_init__(self) -> None:
        require_at_least(self, 0, "weight", "proximal", "epsilon", "sigma", "ascent_size")
        require_at_least(self, 1, "num_ascents")
        if self.projection == "unit" and self.epsilon is not None:
            raise ValueError("epsilon does nothing with adversarial.projection unit: its largest number is 1")

    @property
    def passes(self) -> Passes:
        """A clean and a perturbed pass, one per ascent, and with `proximal` a forward pass of momentum weights."""
        number = 2 + self.num_ascents
        return Passes(number + (self.proximal > 0), number)

    def add_losses(self, losses: CountedLosses, task: Task) -> CountedLosses:
        """Return the losses with those of the divergences.

        Raises:
            InputError: the task has no predictions to compare.
        """
        require_distributions(task, "smart")
        return SmartLosses(losses, task, self)


class SmartLosses(ComparedLosses, Noise):
    """Losses, and the divergences `smart_...` from the perturbed pass and `proximal_...` from the momentum weights.

    All passes draw the same dropout masks.

    Args:
        losses: those of the task, or those of the task and of distillation.
        task: holds the model and has `distributions`.
        settings: the perturbation and the weights.
    """

    def __init__(self, losses: CountedLosses, task: Task, settings: Smart) -> None:
        proximal = {"proximal": settings.proximal} if settings.proximal > 0 else {}
        ComparedLosses.__init__(self, losses, task, {"smart": settings.weight, **proximal})
        Noise.__init__(self)
        self.settings = settings

    @property
    def modules(self) -> Sequence[str]:
        """The momentum weights, if they are needed."""
        return (_MODULE,) if self.settings.proximal > 0 else ()

    def configure(self) -> None:
        """Give the task the momentum weights, if they are needed and it has none yet."""
        if self.settings.proximal > 0 and not hasattr(self.task, _MODULE):
            self.task.add_module(_MODULE, MomentumWeights(self.task.model))

    def begin_step(self, step: int, num_steps: int, seed: int) -> None:
        """Draw other noise, and let the momentum weights follow the last step."""
        super().begin_step(step, num_steps, seed)
        if self.settings.proximal > 0:
            self._momentum_weights.follow(self.task.model, step, num_steps)

    @property
    def _momentum_weights(self) -> MomentumWeights:
        # Without a Trainer nothing has configured the task.
        self.configure()
        weights = getattr(self.task, _MODULE)
        assert isinstance(weights, MomentumWeights)
        return weights

    def sums_and_distributions(self, batch: Batch) -> tuple[Tensor, list[Distribution]]:
        """Return the sums, and what the clean pass predicts."""
        earlier = self._of_momentum_weights(batch) if self.settings.proximal > 0 else []
        sums, clean = self.losses.sums_and_distributions(batch)
        perturbed = self._at(batch, self._perturbation(batch, [_held(each) for each in clean]))
        pairs = [*zip(clean, perturbed, strict=True), *zip(clean[: len(earlier)], earlier, strict=True)]
        return self._joined(sums, [symmetric_divergence(*pair) for pair in pairs]), clean

    def operations(self, batch: Batch, num_passes: float = 1) -> float:
        """Return the operations of the losses, of the perturbed pass, of the ascents and of the momentum weights."""
        further = 1 + self.settings.num_ascents * OPERATIONS_OF_ASCENT
        if self.settings.proximal > 0:
            further += _OPERATIONS_OF_FORWARD
        return self.losses.operations(batch, num_passes) + self.task.operations(batch, further * num_passes)

    def _at(self, batch: Batch, perturbation: Tensor) -> list[Distribution]:
        """Return the predictions at perturbed embeddings."""
        repeat_dropout()
        with self.task.model.backbone.perturbed(perturbation):
            return self.task.distributions(self.task.compute(batch), batch)

    def _of_momentum_weights(self, batch: Batch) -> list[Distribution]:
        """Return the predictions of the momentum weights, before the passes whose gradients need the weights."""
        with self._momentum_weights.in_place_of(self.task.model):
            # Without gradients, torch would use other kernels, whose dropout masks differ.
            earlier = self.task.distributions(self.task.compute(batch), batch)
        repeat_dropout()
        return [_held(each) for each in earlier]

    def _perturbation(self, batch: Batch, clean: Sequence[Distribution]) -> Tensor:
        """Return the perturbation after all ascents, given the clean predictions without gradients."""
        settings, packing = self.settings, batch.get("packing")
        allowed = perturbable(self.task, batch, special_tokens=settings.special_tokens)[..., None]
        nothing = no_perturbation(self.task, batch)
        noise = self.normal(batch, nothing.shape[-1]) * allowed
        reached = (settings.sigma * noise).to(nothing.dtype)
        for _ in range(settings.num_ascents):
            reached.requires_grad_()
            pairs = zip(clean, self._at(batch, reached), strict=True)
            total = torch.stack([symmetric_divergence(*pair) for pair in pairs]).sum()
            (gradient,) = torch.autograd.grad(total, reached)
            gradient = gradient * allowed
            reached = where_finite(reached.detach(), gradient, packing)
            gradient = where_finite(gradient, gradient, packing)
            if settings.projection == "unit":
                reached = _per_token(reached + settings.ascent_size * gradient)
            else:
                bound = 1e-5 if settings.epsilon is None else settings.epsilon
                moved = reached + settings.ascent_size * per_sequence(_by_largest, gradient, packing)
                reached = moved.clamp(-bound, bound)
        return reached


def _held(distribution: Distribution) -> Distribution:
    return distribution._replace(logits=distribution.logits.detach())


def _by_largest(gradient: Tensor) -> Tensor:
    """Divide the gradient of each sequence, (..., S, H), by its largest absolute value; 0 stays 0."""
    largest = gradient.abs().amax((-2, -1), keepdim=True)
    return gradient / torch.where(largest > 0, largest, 1)


def _per_token(perturbation: Tensor) -> Tensor:
    """Divide the perturbation of each token by its largest absolute value; `SmartPerturbation._norm_grad`."""
    return perturbation / (perturbation.abs().amax(-1, keepdim=True) + _LEAST_SIZE)
