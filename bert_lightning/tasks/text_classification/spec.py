"""The description of text classification."""

from bert_lightning.data.datasets.guesses import guess_texts
from bert_lightning.model import BertForSequenceClassification
from bert_lightning.tasks.fine_tuning.settings import HeadSettings
from bert_lightning.tasks.spec import Arguments, Saved, TaskSpec
from bert_lightning.tasks.text_classification.data import PROBLEM_TYPES, TextClassificationDataModule
from bert_lightning.tasks.text_classification.settings import TextClassificationData
from bert_lightning.tasks.text_classification.task import TextClassificationTask


def _head_arguments(head: HeadSettings, data: TextClassificationDataModule) -> Arguments:
    return {"labels": data.labels, "problem_type": PROBLEM_TYPES[data.settings.kind]}


def _task_arguments(data: TextClassificationDataModule, saved: Saved) -> Arguments:
    weights = saved.get("class_weights", data.class_weights)
    return {"settings": data.settings, "labels": data.labels, "class_weights": weights}


def _saved_task_arguments(saved: Saved) -> Arguments:
    settings = TextClassificationData(**saved["data"])
    return {"settings": settings, "labels": saved["labels"], "class_weights": saved.get("class_weights")}


TEXT_CLASSIFICATION = TaskSpec(
    name=TextClassificationTask.name,
    data_settings=TextClassificationData,
    data=TextClassificationDataModule,
    model=BertForSequenceClassification,
    task=TextClassificationTask,
    head_settings=HeadSettings,
    head_arguments=_head_arguments,
    task_arguments=_task_arguments,
    data_arguments=lambda saved: {"labels": saved.get("labels")},
    saved_task_arguments=_saved_task_arguments,
    guess_settings=guess_texts,
)
