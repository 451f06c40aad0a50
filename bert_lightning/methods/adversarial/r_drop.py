"""R-Drop: two passes with different dropout masks should predict the same."""

from dataclasses import dataclass

from torch import Tensor

from bert_lightning.checks import require_at_least
from bert_lightning.data.loading.batching import Batch
from bert_lightning.methods.adversarial.adversary import Adversary, Passes, require_distributions
from bert_lightning.methods.compared_losses import ComparedLosses
from bert_lightning.tasks.distributions import Distribution, symmetric_divergence
from bert_lightning.tasks.step_method import CountedLosses
from bert_lightning.tasks.task import Task


@dataclass(frozen=True)
class RDrop(Adversary):
    """R-Drop: Liang et al. 2021, arXiv 2106.14448, section 2.

    Two passes with different dropout masks have the losses L1 and L2 and the predictions P1 and P2. The loss is
    (L1 + L2) / 2 + `alpha` * (KL(P1 || P2) + KL(P2 || P1)) / 2. For a regression, the mean squared error of the two
    predictions takes the place of the second fraction, as in the authors' code.

    The authors' code adds L1 and L2 without the half (`dropreg/R-Drop`, `roberta_rdrop_src/loss/reg_cross_entropy.py:
    forward_kl`). So their loss is twice this one, and their alpha is twice this one too. The default is theirs,
    `--reg-alpha 1.0`.

    Attributes:
        alpha: weight of the divergence.
    """

    alpha: float = 0.5

    def __post_init__(self) -> None:
        require_at_least(self, 0, "alpha")

    @property
    def passes(self) -> Passes:
        """Two of each."""
        return Passes(2, 2)

    def add_losses(self, losses: CountedLosses, task: Task) -> CountedLosses:
        """Return the mean of two passes, and the divergence of their predictions.

        Raises:
            InputError: the task has no predictions to compare.
        """
        require_distributions(task, "r-drop")
        return RDropLosses(losses, task, self)


class RDropLosses(ComparedLosses):
    """The means of the losses over two passes, and the divergences between them, called `r_drop_...`.

    Args:
        losses: those of the task, or those of the task and of distillation.
        task: holds the model and has `distributions`.
        settings: the weight.
    """

    def __init__(self, losses: CountedLosses, task: Task, settings: RDrop) -> None:
        super().__init__(losses, task, {"r_drop": settings.alpha})

    def sums_and_distributions(self, batch: Batch) -> tuple[Tensor, list[Distribution]]:
        """Return the sums, and what the first pass predicts."""
        sums, one = self.losses.sums_and_distributions(batch)
        # The second pass draws its masks after those of the first.
        others, other = self.losses.sums_and_distributions(batch)
        compared = [_difference(*pair) for pair in zip(one, other, strict=True)]
        return self._joined((sums + others) / 2, compared), one

    def operations(self, batch: Batch, num_passes: float = 1) -> float:
        """Return the operations of two passes."""
        return self.losses.operations(batch, 2 * num_passes)


def _difference(one: Distribution, other: Distribution) -> Tensor:
    """Return the mean of both divergences, or for numbers the squared error; `reg_cross_entropy.py: forward_kl`."""
    both = symmetric_divergence(one, other)
    return both if one.are_numbers else both / 2
