"""The table of all tasks."""

from bert_lightning.checks import nearest_or_own
from bert_lightning.data.datasets.registration import PROGRAM, calling_module
from bert_lightning.errors import InputError
from bert_lightning.model.architectures import OWN_MODELS
from bert_lightning.model.pretrained import PretrainedModel
from bert_lightning.tasks.multiple_choice.spec import MULTIPLE_CHOICE
from bert_lightning.tasks.pretraining.spec import PRETRAINING
from bert_lightning.tasks.prompting.spec import CLOZE
from bert_lightning.tasks.question_answering.spec import QUESTION_ANSWERING
from bert_lightning.tasks.relation_classification.spec import RELATION_CLASSIFICATION
from bert_lightning.tasks.spec import TaskSpec
from bert_lightning.tasks.text_classification.spec import TEXT_CLASSIFICATION
from bert_lightning.tasks.token_classification.spec import TOKEN_CLASSIFICATION

TASKS: dict[str, TaskSpec] = {
    spec.name: spec
    for spec in (
        PRETRAINING,
        TEXT_CLASSIFICATION,
        TOKEN_CLASSIFICATION,
        QUESTION_ANSWERING,
        MULTIPLE_CHOICE,
        RELATION_CLASSIFICATION,
        CLOZE,
    )
}
"""Value of the key `task` -> its description."""
OWNERS: dict[str, str] = {}
"""Name of a registered task -> the module that registered it."""


def task_spec(name: str) -> TaskSpec:
    """Return the description of a task.

    Raises:
        InputError: there is no task of that name; the message suggests the nearest one.

    >>> task_spec("multiple-choice").data_settings.__name__
    'MultipleChoiceData'
    """
    if name not in TASKS:
        raise InputError(f"task is {name!r}, which does not exist{nearest_or_own(name, TASKS)}")
    return TASKS[name]


def register_task(spec: TaskSpec) -> None:
    """Add a custom task, which experiments can then name with the key `task`.

    Checkpoints of the task name the module that calls this, so that commands can import it.

    Raises:
        ValueError: there is another task of that name.
    """
    module = calling_module()
    # A notebook may run a cell again.
    is_new_version = spec.name in TASKS and OWNERS.get(spec.name) == module == PROGRAM
    if not is_new_version and TASKS.get(spec.name, spec) is not spec:
        owner = f", of the module {OWNERS[spec.name]}" if spec.name in OWNERS else ""
        raise ValueError(f"a task is already called {spec.name!r}{owner}: choose another name")
    own_name = getattr(spec.task, "name", spec.name)
    if own_name != spec.name:
        raise ValueError(
            f"{getattr(spec.task, '__name__', spec.task)} has the name {own_name!r} and its TaskSpec {spec.name!r}: "
            "both must be the same"
        )
    TASKS[spec.name] = spec
    OWNERS[spec.name] = module
    if isinstance(spec.model, type) and issubclass(spec.model, PretrainedModel):
        OWN_MODELS.setdefault(spec.model.architecture, spec.model)
