"""FreeLB: the mean of the gradients of several ascents, each of which also moves the perturbation."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from bert_lightning.checks import require_at_least
from bert_lightning.data.loading.batching import Batch
from bert_lightning.methods.adversarial.adversary import Adversary, Passes
from bert_lightning.methods.adversarial.applications import OneOfSeveral, repeat_dropout
from bert_lightning.methods.adversarial.noise import Noise
from bert_lightning.methods.adversarial.perturbations import (
    ascended,
    no_perturbation,
    num_perturbable,
    perturbable,
)
from bert_lightning.tasks.step_method import BackwardPass, StepMethod
from bert_lightning.tasks.task import Task


@dataclass(frozen=True)
class FreeLB(Adversary):
    """FreeLB: Zhu et al. 2020, arXiv 1909.11764, algorithm 1.

    The gradient of a step is the mean of those of K passes over e + r. After each of them, r moves by `ascent_size` *
    g / |g| with its own gradient g of the same pass, and is brought back into the ball |r| <= `epsilon`. Norms are
    Euclidean, over all tokens and features of one sequence.

    The defaults are those of the authors for RTE (`zhuchen03/FreeLB`, issue 11): `adv_steps`, `adv_lr`,
    `rand_init_mag` and `max_norm`. They perturb the word embeddings of RoBERTa. Here e is the input of the first
    block, after LayerNorm and dropout, whose vectors are longer.

    Attributes:
        num_passes: K, the number of passes. A perturbation moves K - 1 times.
        ascent_size: the length of each move.
        initial: size of the random perturbation of the first pass. Each of the n numbers of a sequence is uniform
            between plus and minus `initial` / sqrt(n). With 0, the first pass is clean.
        epsilon: the largest Euclidean norm of the perturbation of each sequence; null for no limit. As in the
            authors' code, the random perturbation of the first pass is not limited.
        clean_pass: whether a pass without perturbation precedes the K passes and counts as one of K + 1.
        special_tokens: whether [CLS] and [SEP] are perturbed too. Padding never is.
    """

    num_passes: int = 3
    ascent_size: float = 0.03
    initial: float = 0.16
    epsilon: float | None = 0.14
    clean_pass: bool = False
    special_tokens: bool = True

    def __post_init__(self) -> None:
        require_at_least(self, 1, "num_passes")
        require_at_least(self, 0, "ascent_size", "initial", "epsilon")
        if self.clean_pass and self.initial == 0:
            raise ValueError("clean_pass does nothing with adversarial.initial 0: the first pass is clean")

    @property
    def passes(self) -> Passes:
        """K of each, and a clean one if it is asked for."""
        number = self.num_passes + self.clean_pass
        return Passes(number, number)

    def wrap(self, method: StepMethod, task: Task) -> StepMethod:
        """Return the mean of K applications of the method."""
        return FreeLBStep(method, task, self)


class FreeLBStep(Noise):
    """A step method that applies another one K times, and takes the mean of sums and gradients.

    Its losses are those of the method, so one pass without an initial perturbation is the method itself. All
    applications draw the same dropout masks.

    Args:
        method: the step method that is applied.
        task: holds the model. A forward pass must call its encoder once, on the `input_ids` of the batch.
        settings: number and length of the ascents.
    """

    def __init__(self, method: StepMethod, task: Task, settings: FreeLB) -> None:
        super().__init__()
        self.method = method
        self.task = task
        self.settings = settings

    @property
    def loss_names(self) -> Sequence[str]:
        """Those of the method."""
        return self.method.loss_names

    @property
    def num_losses(self) -> int:
        """That of the method."""
        return self.method.num_losses

    @property
    def loss_factors(self) -> Sequence[float]:
        """Those of the method."""
        return self.method.loss_factors

    def counts(self, batch: Batch) -> Tensor:
        """Return (K,) the counts of the method."""
        return self.method.counts(batch)

    def sums(self, batch: Batch, backward: BackwardPass) -> Tensor:
        """Return (K,) the means of the sums over all passes, after their backward passes."""
        settings, packing = self.settings, batch.get("packing")
        number = settings.passes.backward
        allowed = perturbable(self.task, batch, special_tokens=settings.special_tokens)
        starts = number - settings.num_passes
        perturbation, total = no_perturbation(self.task, batch), None
        for i in range(number):
            if i == starts:
                perturbation = self._initial(batch, allowed)
            if i > 0:
                repeat_dropout()
            perturbation.requires_grad_()
            part = OneOfSeveral(backward, lambda losses: losses / number, ends=i == number - 1)
            with self.task.model.backbone.perturbed(perturbation):
                sums = self.method.sums(batch, part)
            total = sums if total is None else total + sums
            if starts <= i < number - 1:
                assert perturbation.grad is not None, "the losses depend on the embeddings"
                gradient, reached = perturbation.grad * allowed[..., None], perturbation.detach()
                perturbation = ascended(reached, gradient, settings.ascent_size, settings.epsilon, packing)
        assert total is not None, "there is a pass"
        return total / number

    def _initial(self, batch: Batch, allowed: Tensor) -> Tensor:
        """Return the perturbation of the first of the K passes; `run_glue_freelb.py: train` of the authors."""
        nothing = no_perturbation(self.task, batch)
        if self.settings.initial == 0:
            return nothing
        width = nothing.shape[-1]
        num_values = num_perturbable(allowed, batch.get("packing")).clamp(min=1) * width
        sizes = self.settings.initial / num_values.sqrt() * allowed
        return (self.uniform(batch, width) * sizes[..., None]).to(nothing.dtype)

    def operations(self, batch: Batch, num_passes: float = 1) -> float:
        """Return the operations of all applications of the method."""
        return self.method.operations(batch, self.settings.passes.backward * num_passes)
