"""The description of the cloze task."""

from bert_lightning.data.datasets.guesses import guess_texts
from bert_lightning.model import BertForMaskedLM
from bert_lightning.tasks.pretraining.spec import PRETRAINING
from bert_lightning.tasks.prompting.data import ClozeDataModule
from bert_lightning.tasks.prompting.settings import ClozeData
from bert_lightning.tasks.prompting.task import ClozeTask
from bert_lightning.tasks.spec import Arguments, Saved, TaskSpec


def _task_arguments(data: ClozeDataModule, saved: Saved) -> Arguments:
    weights = saved.get("class_weights", data.class_weights)
    return {"settings": data.settings, "labels": data.labels, "class_weights": weights}


def _saved_task_arguments(saved: Saved) -> Arguments:
    settings = ClozeData(**saved["data"])
    return {"settings": settings, "labels": saved["labels"], "class_weights": saved.get("class_weights")}


CLOZE = TaskSpec(
    name=ClozeTask.name,
    data_settings=ClozeData,
    data=ClozeDataModule,
    model=BertForMaskedLM,
    task=ClozeTask,
    task_arguments=_task_arguments,
    data_arguments=lambda saved: {"labels": saved.get("labels")},
    saved_task_arguments=_saved_task_arguments,
    num_segments=lambda settings: 2 if settings.cloze.is_pair else 1,
    guess_settings=guess_texts,
    keeps_every_head=True,
    scores_without_training=(PRETRAINING.name, None),
)
