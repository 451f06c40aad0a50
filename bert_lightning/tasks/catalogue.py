"""The table of all tasks."""

from bert_lightning.checks import nearest
from bert_lightning.errors import InputError
from bert_lightning.tasks.multiple_choice.spec import MULTIPLE_CHOICE
from bert_lightning.tasks.pretraining.spec import PRETRAINING
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
    )
}
"""Value of the key `task` -> its description."""


def task_spec(name: str) -> TaskSpec:
    """Return the description of a task.

    Raises:
        InputError: there is no task of that name; the message suggests the nearest one.

    >>> task_spec("multiple-choice").data_settings.__name__
    'MultipleChoiceData'
    """
    if name not in TASKS:
        raise InputError(f"task is {name!r}, which does not exist{nearest(name, TASKS)}")
    return TASKS[name]


def register_task(spec: TaskSpec) -> None:
    """Add a custom task, which experiments can then name with the key `task`.

    Raises:
        ValueError: there is another task of that name.
    """
    if TASKS.setdefault(spec.name, spec) is not spec:
        raise ValueError(f"a task is already called {spec.name!r}: choose another name")
