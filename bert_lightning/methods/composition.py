"""The one step method of a training: the losses, how a step computes them, and the perturbations around both."""

from bert_lightning.errors import InputError
from bert_lightning.methods.adversarial.adversary import Adversary
from bert_lightning.methods.plain import StepMethodSettings
from bert_lightning.tasks.step_method import CountedLosses, StepMethod, StepPart
from bert_lightning.tasks.task import Task

_REQUIRED = ("loss_names", "num_losses", "loss_factors", "counts", "sums", "operations")


def compose(
    task: Task,
    step_method: StepMethodSettings,
    adversarial: Adversary,
    added: CountedLosses | None = None,
) -> StepMethod:
    """Compose a step method from up to three parts.

    Distillation adds losses. `step_method` turns all losses into gradients. `adversarial` wraps it, to train on
    perturbed inputs too. An adversary that compares predictions adds losses as well. `task.step_parts` gets the parts
    that follow the training.

    Args:
        task: the task that is trained.
        step_method: how losses become gradients.
        adversarial: the perturbations.
        added: the losses of the task with those of a teacher, of an earlier model, or on masked words; None if there
            are none.

    Raises:
        InputError: a custom method is not a step method, or the adversary does not suit the task.
    """
    losses: CountedLosses = task if added is None else added
    # A class of the user's needs no more than `wrap`.
    if hasattr(adversarial, "add_losses"):
        losses = adversarial.add_losses(losses, task)
    method = _checked(step_method.build(losses), "step_method")
    wrapped = _checked(adversarial.wrap(method, task), "adversarial")
    # Without an adversary some of these are the same object.
    layers: dict[int, object] = {id(each): each for each in (added, losses, method, wrapped)}
    task.step_parts = [each for each in layers.values() if isinstance(each, StepPart)]
    return wrapped


def _checked(method: StepMethod, key: str) -> StepMethod:
    """Return a step method after checking that its losses fit together, because a custom one may be wrong.

    Raises:
        InputError: it has no losses, or its numbers of names, losses and factors do not fit. The message names the
            key.
    """
    if missing := [name for name in _REQUIRED if not hasattr(method, name)]:
        raise InputError(f"{key} made {method!r}, which lacks {', '.join(missing)}")
    names, number, factors = list(method.loss_names), method.num_losses, list(method.loss_factors)
    if not 1 <= number <= len(names) or len(factors) != number or len({*names}) != len(names):
        raise InputError(
            f"{key} has {number} losses with the factors {factors}, and sums called {', '.join(map(str, names))}: it "
            "needs one factor for each loss, and different names, those of the losses first"
        )
    return method
