"""The settings of a run's optimiser step, checked against the model that it trains."""

from bert_lightning.config.experiment import Experiment
from bert_lightning.errors import InputError
from bert_lightning.model.pretrained import PretrainedModel
from bert_lightning.model.tuning import Full
from bert_lightning.optim.freezing import release_steps
from bert_lightning.runs.starting_point import tuning_name
from bert_lightning.tasks.task import Optimization


def optimization_of(experiment: Experiment, model: PretrainedModel, num_steps: int) -> Optimization:
    """Return the settings of a model's optimiser step.

    Raises:
        InputError: a pattern of parameters matches none, the schedule does not fit into the steps, or gradual
            unfreezing releases nothing.
    """
    try:
        experiment.schedule.check(num_steps)
    except ValueError as error:
        raise InputError(f"schedule.{error}") from None
    _check_matrices(experiment, model)
    parameters = [name for name, _ in model.named_parameters()]
    for pattern in experiment.parameter_groups.unmatched(parameters):
        raise InputError(f"parameter_groups.no_decay: no parameter's name holds {pattern!r}; one is {parameters[0]}")
    return Optimization(
        optimizer=experiment.optimizer,
        schedule=experiment.schedule,
        num_steps=num_steps,
        gradient_clip_val=experiment.trainer.gradient_clip_val,
        seed=experiment.seed_everything,
        non_finite=experiment.trainer.non_finite,
        log_every_n_steps=experiment.trainer.log_every_n_steps,
        log_norms=experiment.trainer.log_norms,
        loss_weights=experiment.loss_weights,
        parameter_groups=experiment.parameter_groups,
        releases=_releases(experiment.freeze.unfreeze_every, model, num_steps),
    )


def _check_matrices(experiment: Experiment, model: PretrainedModel) -> None:
    """Check that an optimiser with its own step for the matrices of the blocks has one to update.

    Raises:
        InputError: the tuning freezes all of them.
    """
    if not experiment.optimizer.matrices_apart or type(model.tuning) is Full:
        return
    matrices = model.hidden_matrices()
    if not any(parameter.requires_grad for name, parameter in model.named_parameters() if name in matrices):
        raise InputError(
            f"optimizer.name muon has no matrix to update with tuning.name {tuning_name(model)}: it would be AdamW, "
            "so use adamw"
        )


def _releases(every: int | None, model: PretrainedModel, num_steps: int) -> dict[str, int]:
    """Return the step at which each parameter begins to train under `freeze.unfreeze_every`."""
    if every is None:
        return {}
    releases = release_steps(model, model.depths(), every)
    if max(releases.values()) == 0:
        raise InputError("freeze.unfreeze_every has no effect: everything below the head is frozen for good")
    if every >= num_steps:
        raise InputError(
            f"freeze.unfreeze_every is {every}, but training ends after {num_steps} steps: use freeze.encoder"
        )
    return releases
