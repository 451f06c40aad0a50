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
    shown = {"demonstrations": data.demonstrations}
    return {"settings": data.settings, "labels": data.labels, "class_weights": weights, **shown}


def _saved_task_arguments(saved: Saved) -> Arguments:
    settings = ClozeData(**saved["data"])
    names = ("class_weights", "demonstrations")
    return {"settings": settings, "labels": saved["labels"], **{name: saved.get(name) for name in names}}


CLOZE = TaskSpec(
    name=ClozeTask.name,
    data_settings=ClozeData,
    data=ClozeDataModule,
    model=BertForMaskedLM,
    task=ClozeTask,
    task_arguments=_task_arguments,
    data_arguments=lambda saved: {
        "labels": saved.get("labels"),
        **({"demonstrations": saved["demonstrations"]} if saved.get("demonstrations") else {}),
    },
    saved_task_arguments=_saved_task_arguments,
    num_segments=lambda settings: settings.num_segments,
    guess_settings=guess_texts,
    keeps_every_head=True,
    scores_without_training=(PRETRAINING.name, None),
)
