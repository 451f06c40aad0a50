"""The description of multiple choice."""

from bert_lightning.model import BertForMultipleChoice
from bert_lightning.tasks.fine_tuning.settings import HeadSettings
from bert_lightning.tasks.multiple_choice.data import MultipleChoiceDataModule
from bert_lightning.tasks.multiple_choice.settings import MultipleChoiceData
from bert_lightning.tasks.multiple_choice.task import MultipleChoiceTask
from bert_lightning.tasks.spec import TaskSpec

MULTIPLE_CHOICE = TaskSpec(
    name=MultipleChoiceTask.name,
    data_settings=MultipleChoiceData,
    data=MultipleChoiceDataModule,
    model=BertForMultipleChoice,
    task=MultipleChoiceTask,
    head_settings=HeadSettings,
)
