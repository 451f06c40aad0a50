"""Elastic weight consolidation: weights that mattered for earlier tasks are held where they were."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from bert_lightning.checks import require_at_least, require_fraction
from bert_lightning.methods.continual.fisher import FisherLabels, fisher_information
from bert_lightning.methods.continual.method import ContinualMethod, End, Start
from bert_lightning.methods.continual.penalty import Anchor, QuadraticPenalty
from bert_lightning.tasks.distributions import described
from bert_lightning.tasks.penalty import Penalty
from bert_lightning.tasks.task import Task

_FISHER, _CENTRE = "fisher.", "centre."


@dataclass(frozen=True)
class EWC(ContinualMethod):
    """Elastic weight consolidation: Kirkpatrick et al. 2017, arXiv 1612.00796, equation 3.

    The loss gets `strength` / 2 F (w - w0)^2 for each earlier task, with the weights w0 after it, and the diagonal F
    of its Fisher information there. The sum of these parabolas is one parabola, which is all that is kept: its
    curvature is the sum of the F, and its centre the mean of the w0, weighted by F.

    Attributes:
        strength: the lambda of the paper. It depends on the data, so search it.
        samples: number of training samples of which the Fisher information is the mean; null for all.
        labels: `model` draws the labels from the model's predictions, as the Fisher information is defined; `data`
            takes those of the data (the empirical Fisher information).
        online: pull the weights only to their values after the previous task, instead of to those after each earlier
            task: Schwarz et al. 2018, arXiv 1805.06370, equation 9.
        decay: factor on the Fisher information of earlier tasks with each new task; needs `online`.
    """

    strength: float = 1000.0
    samples: int | None = 1000
    labels: FisherLabels = "model"
    online: bool = False
    decay: float = 1.0

    def __post_init__(self) -> None:
        require_at_least(self, 0, "strength")
        require_at_least(self, 1, "samples")
        require_fraction(self, "decay")
        if self.decay != 1 and not self.online:
            raise ValueError("decay does nothing without continual.online")

    def check_task(self, task: Task) -> None:
        """Check that the next task can hold what trains, and that labels can be drawn from predictions, if they are.

        Raises:
            ValueError: one of them cannot be.
        """
        if self.strength and (added := sorted(task.model.added_parameters)):
            raise ValueError(
                f"name is ewc, but the tuning adds parameters, such as {added[0]}. They begin anew in each task, so "
                "they cannot be held where the task before left them: choose a tuning that adds none"
            )
        if self.labels == "model" and not task.distribution_names:
            raise ValueError(f"labels is model, which is not defined for {described(task)}: set it to data")

    def penalty(self, start: Start) -> Penalty | None:
        """Return the penalty of all earlier tasks. With the strength 0 training is plain, bit for bit.

        Raises:
            ValueError: a parameter that trains did not train in the run before, or does not continue it.
        """
        if start.information is None or not self.strength:
            return None
        anchors = {}
        for name, parameter in start.model.named_parameters():
            if not parameter.requires_grad:
                continue
            fisher = start.information.get(_FISHER + start.prefix + name)
            if fisher is None or fisher.shape != parameter.shape:
                raise ValueError(
                    f"name is ewc, but the run before has no Fisher information of {name}: give both runs the same "
                    "tuning and freeze settings, and choose a tuning that adds no parameters"
                )
            if not start.gave(name, parameter.detach()):
                raise ValueError(
                    f"name is ewc, but {name} begins with new values, so it cannot be held where the run before left "
                    "it: start from that run, and reinitialise nothing"
                )
            anchors[name] = Anchor(start.information[_CENTRE + start.prefix + name], self.strength * fisher)
        return QuadraticPenalty(start.model, anchors)

    def information(self, end: End) -> dict[str, Tensor]:
        """Return the parabola of all tasks so far, on the processor."""
        model = end.task.model
        fisher = fisher_information(end.task, end.samples(self.samples), self.labels, end.seed)
        named = {model.prefix + name: values.cpu() for name, values in fisher.items()}
        weights = {model.prefix + name: each.detach().cpu() for name, each in model.named_parameters()}
        return self.combined(named, weights, end.before)

    def combined(
        self, fisher: Mapping[str, Tensor], weights: Mapping[str, Tensor], before: Mapping[str, Tensor] | None
    ) -> dict[str, Tensor]:
        """Return the parabola of all tasks so far, as the run of the next task reads it.

        Args:
            fisher: the Fisher information of this task.
            weights: the weights after it, under the same names.
            before: the parabola of the tasks before; None for the first task.
        """
        kept: dict[str, Tensor] = {}
        for name, new in fisher.items():
            old = before.get(_FISHER + name) if before is not None else None
            centre = weights[name].detach().to(new.dtype)
            total = new if old is None else self.decay * old + new
            if old is not None and not self.online:
                assert before is not None, "it holds the Fisher information of the tasks before"
                mean = (old * before[_CENTRE + name] + new * centre) / total
                # Where no task depends on a weight, any centre will do.
                centre = torch.where(total > 0, mean, centre)
            kept |= {_FISHER + name: total, _CENTRE + name: centre}
        return kept
