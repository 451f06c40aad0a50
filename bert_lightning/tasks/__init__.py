"""The tasks, one folder per task: settings, data, LightningModule and description."""

from typing import TYPE_CHECKING

from bert_lightning.lazy import exports

if TYPE_CHECKING:
    from bert_lightning.tasks.catalogue import TASKS, register_task, task_spec
    from bert_lightning.tasks.fine_tuning.data import FineTuningDataModule
    from bert_lightning.tasks.fine_tuning.one_of_several import OneOfSeveralTask
    from bert_lightning.tasks.fine_tuning.report import Evaluation, Report
    from bert_lightning.tasks.fine_tuning.settings import FineTuningData
    from bert_lightning.tasks.fine_tuning.splits import EncodedSplit, SplitExamples, Subset
    from bert_lightning.tasks.fine_tuning.task import FineTuningTask
    from bert_lightning.tasks.fine_tuning.texts import TextTask, TextTaskData
    from bert_lightning.tasks.multiple_choice.data import MultipleChoiceDataModule
    from bert_lightning.tasks.multiple_choice.settings import MultipleChoiceData
    from bert_lightning.tasks.multiple_choice.task import MultipleChoiceTask
    from bert_lightning.tasks.pretraining.task import PretrainingTask
    from bert_lightning.tasks.prompting.data import ClozeDataModule
    from bert_lightning.tasks.prompting.settings import ClozeData
    from bert_lightning.tasks.prompting.task import ClozeTask
    from bert_lightning.tasks.question_answering.data import QuestionAnsweringDataModule
    from bert_lightning.tasks.question_answering.settings import QuestionAnsweringData
    from bert_lightning.tasks.question_answering.task import QuestionAnsweringTask
    from bert_lightning.tasks.relation_classification.data import RelationClassificationDataModule
    from bert_lightning.tasks.relation_classification.settings import RelationClassificationData
    from bert_lightning.tasks.relation_classification.task import RelationClassificationTask
    from bert_lightning.tasks.spec import NoHeadSettings, TaskSpec
    from bert_lightning.tasks.step_method import PlainStep, StepMethod
    from bert_lightning.tasks.task import Optimization, Task
    from bert_lightning.tasks.text_classification.data import TextClassificationDataModule
    from bert_lightning.tasks.text_classification.settings import TextClassificationData
    from bert_lightning.tasks.text_classification.task import TextClassificationTask
    from bert_lightning.tasks.token_classification.data import TokenClassificationDataModule
    from bert_lightning.tasks.token_classification.settings import TokenClassificationData, TokenClassificationHead
    from bert_lightning.tasks.token_classification.task import TokenClassificationTask

__all__ = [
    "TASKS",
    "ClozeData",
    "ClozeDataModule",
    "ClozeTask",
    "EncodedSplit",
    "Evaluation",
    "FineTuningData",
    "FineTuningDataModule",
    "FineTuningTask",
    "MultipleChoiceData",
    "MultipleChoiceDataModule",
    "MultipleChoiceTask",
    "NoHeadSettings",
    "OneOfSeveralTask",
    "Optimization",
    "PlainStep",
    "PretrainingTask",
    "QuestionAnsweringData",
    "QuestionAnsweringDataModule",
    "QuestionAnsweringTask",
    "RelationClassificationData",
    "RelationClassificationDataModule",
    "RelationClassificationTask",
    "Report",
    "SplitExamples",
    "StepMethod",
    "Subset",
    "Task",
    "TaskSpec",
    "TextClassificationData",
    "TextClassificationDataModule",
    "TextClassificationTask",
    "TextTask",
    "TextTaskData",
    "TokenClassificationData",
    "TokenClassificationDataModule",
    "TokenClassificationHead",
    "TokenClassificationTask",
    "register_task",
    "task_spec",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = exports(__name__, __file__)
