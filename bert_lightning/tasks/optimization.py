"""The settings of an optimiser step."""

import math
from dataclasses import dataclass, field
from numbers import Real
from typing import Literal

import torch

from bert_lightning.checks import name_in
from bert_lightning.model.parts import ContractError
from bert_lightning.model.pretrained import PretrainedModel
from bert_lightning.optim.optimizers import OPTIMIZERS, OptimizerSettings
from bert_lightning.optim.parameter_groups import ParameterGroupSettings, parameter_groups
from bert_lightning.optim.schedules import Schedule
from bert_lightning.tasks.norms_and_rates import NormsLogged


@dataclass(frozen=True)
class Optimization:
    """The settings of an optimiser step.

    Attributes:
        optimizer: the optimiser's settings.
        schedule: the factor on its learning rate.
        num_steps: length of the whole training.
        gradient_clip_val: largest global norm of the gradients, or None.
        seed: seed of dropout.
        non_finite: what to do if loss or gradients of a step are not finite: stop training, or skip the step.
        log_every_n_steps: length of the log interval, over which training metrics are averaged. A Trainer that is
            built with another value than Lightning's default decides instead.
        log_norms: which norms are logged at the end of a log interval (`tasks/norms_and_rates.py`).
        loss_weights: factor on each loss by name; 1 for a loss without one, as published.
        parameter_groups: learning rates and weight decay by parameter.
        releases: name of a parameter in the model -> the first step that updates it; 0 for all others.
    """

    optimizer: OptimizerSettings
    schedule: Schedule
    num_steps: int
    gradient_clip_val: float | None = 1.0
    seed: int = 0
    log_every_n_steps: int = 10
    log_norms: NormsLogged = "total"
    non_finite: Literal["stop", "skip"] = "stop"
    loss_weights: dict[str, float] = field(default_factory=dict)
    parameter_groups: ParameterGroupSettings = field(default_factory=ParameterGroupSettings)
    releases: dict[str, int] = field(default_factory=dict)

    @property
    def optimizer_name(self) -> str:
        """The name that selects the optimiser in a configuration; for an extension, that of its class."""
        return name_in(OPTIMIZERS, type(self.optimizer))

    def build(
        self, model: PretrainedModel, beside: torch.nn.Module | None = None
    ) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
        """Build the optimiser over the parameter groups of a model, and its schedule as a function of the step.

        Modules `beside` the model train at the rate of the head.
        """
        groups = parameter_groups(
            model,
            model.depths(),
            self.optimizer.learning_rate,
            self.optimizer.weight_decay,
            self.parameter_groups,
            model.hidden_matrices() if self.optimizer.matrices_apart else None,
            beside,
        )
        optimizer = self.optimizer.build(groups)

        # LambdaLR would write the attributes of a method into checkpoints.
        def factor(step: int) -> float:
            return self._factor(step)

        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)

    def _factor(self, step: int) -> float:
        """Return the factor on the learning rate.

        Raises:
            ContractError: the factor of a custom schedule is not a finite number.
        """
        factor = self.schedule.factor(step, self.num_steps)
        if not isinstance(factor, Real) or not math.isfinite(factor):
            raise ContractError(
                f"schedule: {type(self.schedule).__name__}.factor returned {factor!r} for step {step}; expected a "
                "finite number"
            )
        return factor
