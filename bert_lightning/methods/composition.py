"""The one step method of a training: the losses, how a step computes them, and the perturbations around both."""

from bert_lightning.methods.adversarial import AdversarialSettings
from bert_lightning.methods.distillation import DistillationSettings, DistilledLosses
from bert_lightning.methods.plain import StepMethodSettings
from bert_lightning.tasks.step_method import CountedLosses, StepMethod
from bert_lightning.tasks.task import Task


def compose(
    task: Task,
    step_method: StepMethodSettings,
    adversarial: AdversarialSettings,
    distillation: DistillationSettings | None = None,
    teacher: Task | None = None,
) -> StepMethod:
    """Compose a step method: distillation adds losses, `step_method` trains all of them, `adversarial` does so twice.

    If `alpha` is 0, the teacher does not compute, and training equals that on the labels alone, bit for bit.

    Args:
        task: the task that is trained.
        step_method: how losses become gradients.
        adversarial: the perturbations.
        distillation: temperature and weight; None without a teacher.
        teacher: a task of the same kind with the teacher's model.
    """
    losses: CountedLosses = task
    if distillation is not None and teacher is not None and distillation.alpha > 0:
        losses = DistilledLosses(task, teacher, distillation)
    return adversarial.wrap(step_method.build(losses), task)
