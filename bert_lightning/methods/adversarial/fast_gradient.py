"""The fast gradient method: a second pass over embeddings perturbed in the direction in which the loss rises."""

from dataclasses import dataclass

from torch import Tensor

from bert_lightning.checks import require_at_least
from bert_lightning.data.loading.batching import Batch
from bert_lightning.methods.adversarial.adversary import Adversary, Passes
from bert_lightning.methods.adversarial.perturbations import directions
from bert_lightning.methods.adversarial.perturbed_step import GradientAt, PerturbedStep
from bert_lightning.tasks.step_method import StepMethod
from bert_lightning.tasks.task import Task


@dataclass(frozen=True)
class FastGradient(Adversary):
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

    @property
    def passes(self) -> Passes:
        """Two of each: over the embeddings, and over the perturbed embeddings."""
        return Passes(2, 2)

    def wrap(self, method: StepMethod, task: Task) -> StepMethod:
        """Return the method with a second, perturbed pass."""
        return FastGradientStep(method, task, self)


class FastGradientStep(PerturbedStep):
    """The step of the fast gradient method.

    Args:
        method: the step method that is applied.
        task: holds the model. A forward pass must call its encoder once, on the `input_ids` of the batch.
        settings: size and weight of the perturbation.
    """

    def __init__(self, method: StepMethod, task: Task, settings: FastGradient) -> None:
        super().__init__(method, task, weight=settings.weight, special_tokens=settings.special_tokens)
        self._epsilon = settings.epsilon

    def perturbation(self, batch: Batch, gradient: Tensor, gradient_at: GradientAt) -> Tensor:
        """Return epsilon times the direction of the gradient."""
        return self._epsilon * directions(gradient, batch.get("packing"))
