"""The description of the cloze task."""

from bert_lightning.data.datasets.guesses import guess_texts
from bert_lightning.model import BertForMaskedLM
from bert_lightning.tasks.pretraining.spec import PRETRAINING
from bert_lightning.tasks.prompting.data import ClozeDataModule
from bert_lightning.tasks.prompting.settings import ClozeData
from bert_lightning.tasks.prompting.task import ClozeTask
from bert_lightning.tasks.spec import TaskSpec

CLOZE = TaskSpec(
    name=ClozeTask.name,
    data_settings=ClozeData,
    data=ClozeDataModule,
    model=BertForMaskedLM,
    task=ClozeTask,
    kept=("labels", "class_weights", "demonstrations"),
    data_arguments=lambda saved: {
        "labels": saved.get("labels"),
        **({"demonstrations": saved["demonstrations"]} if saved.get("demonstrations") else {}),
    },
    num_segments=lambda settings: settings.num_segments,
    guess_settings=guess_texts,
    keeps_every_head=True,
    scores_without_training=(PRETRAINING.name, None),
)
