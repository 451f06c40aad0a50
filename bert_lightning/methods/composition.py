"""The one step method of a training: the losses, how a step computes them, and the perturbations around both."""

from collections.abc import Callable

from bert_lightning.errors import InputError
from bert_lightning.methods.adversarial import AdversarialSettings
from bert_lightning.methods.distillation import DistillationSettings, DistilledLosses
from bert_lightning.methods.plain import StepMethodSettings
from bert_lightning.tasks.step_method import CountedLosses, StepMethod
from bert_lightning.tasks.task import Task

_REQUIRED = ("loss_names", "num_losses", "loss_factors", "counts", "sums", "operations")


def compose(
    task: Task,
    step_method: StepMethodSettings,
    adversarial: AdversarialSettings,
    distillation: DistillationSettings | None = None,
    teacher: Task | None = None,
    with_memory: Callable[[Task], CountedLosses] | None = None,
) -> StepMethod:
    """Compose a step method: distillation adds losses, `step_method` trains all of them, `adversarial` does so twice.

    If `alpha` is 0, the teacher does not compute, and training equals that on the labels alone, bit for bit.

    Args:
        task: the task that is trained.
        step_method: how losses become gradients.
        adversarial: the perturbations.
        distillation: temperature and weight; None without a teacher.
        teacher: a task of the same kind with the teacher's model.
        with_memory: adds the losses of continual learning to those of a task; None if there are none.

    Raises:
        InputError: a custom method is none, or both a teacher and an earlier model add losses.
    """
    losses: CountedLosses = task
    if distillation is not None and teacher is not None and distillation.alpha > 0:
        losses = DistilledLosses(task, teacher, distillation)
    if with_memory is not None:
        if losses is not task:
            raise InputError(
                "continual.name lwf and distillation both train on the predictions of another model: use one of them"
            )
        losses = with_memory(task)
    method = _checked(step_method.build(losses), "step_method")
    return _checked(adversarial.wrap(method, task), "adversarial")


def _checked(method: StepMethod, key: str) -> StepMethod:
    """Return a step method after checking that its losses fit together. One of the user's may promise anything.

    Raises:
        InputError: it has no losses, or other numbers of names, losses and factors. The message names the key.
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
