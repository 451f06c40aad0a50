"""Projected gradient descent: several ascents within a ball around the embeddings, then a perturbed pass."""

from dataclasses import dataclass

from torch import Tensor

from bert_lightning.checks import require_at_least
from bert_lightning.data.loading.batching import Batch
from bert_lightning.methods.adversarial.adversary import Adversary, Passes
from bert_lightning.methods.adversarial.applications import OPERATIONS_OF_ASCENT
from bert_lightning.methods.adversarial.noise import Noise
from bert_lightning.methods.adversarial.perturbations import ascended, directions, perturbable
from bert_lightning.methods.adversarial.perturbed_step import GradientAt, PerturbedStep
from bert_lightning.tasks.step_method import StepMethod
from bert_lightning.tasks.task import Task


@dataclass(frozen=True)
class ProjectedGradient(Adversary):
    """Projected gradient descent (PGD): Madry et al. 2018, arXiv 1706.06083, section 2.1, on embeddings.

    The loss is L(e) + `weight` * L(e + r). The perturbation r of a sequence begins as 0. Each of `num_ascents`
    ascents adds `ascent_size` * g / |g|, with the gradient g of L(e + r) with respect to r, and then brings r back
    into the ball |r| <= `epsilon`. Norms are Euclidean, over all tokens and features of one sequence. The paper
    bounds the largest change of a pixel, and minimises only L(e + r).

    With one ascent as long as `epsilon` it is the fast gradient method.

    Attributes:
        epsilon: the largest Euclidean norm of the perturbation of each sequence.
        num_ascents: K, the number of ascents.
        ascent_size: the length of each ascent.
        random_start: whether the first ascent begins at a random point with the norm `epsilon`. With so many
            dimensions, nearly all points of the ball are almost that far from its centre. It takes one more pass.
        weight: factor on the loss of the perturbed pass.
        special_tokens: whether [CLS] and [SEP] are perturbed too. Padding never is.
    """

    epsilon: float = 1.0
    num_ascents: int = 3
    ascent_size: float = 0.5
    random_start: bool = False
    weight: float = 1.0
    special_tokens: bool = True

    def __post_init__(self) -> None:
        require_at_least(self, 0, "epsilon", "ascent_size", "weight")
        require_at_least(self, 1, "num_ascents")

    @property
    def passes(self) -> Passes:
        """One over the embeddings, one over the perturbed embeddings, and one per further gradient of an ascent."""
        number = 2 + self.num_gradients
        return Passes(number, number)

    @property
    def num_gradients(self) -> int:
        """The number of gradients that take a pass of their own.

        An ascent that starts at 0 takes none: the pass over the embeddings gives its gradient.
        """
        return self.num_ascents - (0 if self.random_start else 1)

    def wrap(self, method: StepMethod, task: Task) -> StepMethod:
        """Return the method with ascents and a perturbed pass."""
        return ProjectedGradientStep(method, task, self)


class ProjectedGradientStep(Noise, PerturbedStep):
    """The step of projected gradient descent.

    Args:
        method: the step method that is applied.
        task: holds the model. A forward pass must call its encoder once, on the `input_ids` of the batch.
        settings: size, number and length of the ascents.
    """

    def __init__(self, method: StepMethod, task: Task, settings: ProjectedGradient) -> None:
        Noise.__init__(self)
        PerturbedStep.__init__(self, method, task, weight=settings.weight, special_tokens=settings.special_tokens)
        self.settings = settings

    def perturbation(self, batch: Batch, gradient: Tensor, gradient_at: GradientAt) -> Tensor:
        """Return the perturbation after all ascents."""
        settings, packing = self.settings, batch.get("packing")
        reached = gradient.new_zeros(gradient.shape)
        if settings.random_start:
            allowed = perturbable(self.task, batch, special_tokens=settings.special_tokens)[..., None]
            noise = self.normal(batch, gradient.shape[-1]).to(gradient.dtype)
            reached = settings.epsilon * directions(noise * allowed, packing)
        for number in range(settings.num_ascents):
            if number > 0 or settings.random_start:
                gradient = gradient_at(reached)
            reached = ascended(reached, gradient, settings.ascent_size, settings.epsilon, packing)
        return reached

    def operations(self, batch: Batch, num_passes: float = 1) -> float:
        """Return the operations of two applications and of the ascents, which compute no gradients of the weights."""
        ascents = self.settings.num_gradients * OPERATIONS_OF_ASCENT
        return self.method.operations(batch, (2 + ascents) * num_passes)
