"""The description of text classification."""

from bert_lightning.data.datasets.guesses import guess_texts
from bert_lightning.model import BertForSequenceClassification
from bert_lightning.tasks.fine_tuning.settings import HeadSettings
from bert_lightning.tasks.spec import Arguments, TaskSpec
from bert_lightning.tasks.text_classification.data import PROBLEM_TYPES, TextClassificationDataModule
from bert_lightning.tasks.text_classification.settings import TextClassificationData
from bert_lightning.tasks.text_classification.task import TextClassificationTask


def _head_arguments(head: HeadSettings, data: TextClassificationDataModule) -> Arguments:
    return {"labels": data.labels, "problem_type": PROBLEM_TYPES[data.settings.kind]}


TEXT_CLASSIFICATION = TaskSpec(
    name=TextClassificationTask.name,
    data_settings=TextClassificationData,
    data=TextClassificationDataModule,
    model=BertForSequenceClassification,
    task=TextClassificationTask,
    head_settings=HeadSettings,
    head_arguments=_head_arguments,
    kept=("labels", "class_weights"),
    data_arguments=lambda saved: {"labels": saved.get("labels")},
    guess_settings=guess_texts,
)
