"""The description of relation classification."""

from bert_lightning.data.datasets.guesses import guess_relations
from bert_lightning.model import BertForRelationClassification
from bert_lightning.tasks.fine_tuning.settings import HeadSettings
from bert_lightning.tasks.relation_classification.data import RelationClassificationDataModule, with_markers
from bert_lightning.tasks.relation_classification.settings import RelationClassificationData
from bert_lightning.tasks.relation_classification.task import RelationClassificationTask
from bert_lightning.tasks.spec import TaskSpec

RELATION_CLASSIFICATION = TaskSpec(
    name=RelationClassificationTask.name,
    data_settings=RelationClassificationData,
    data=RelationClassificationDataModule,
    model=BertForRelationClassification,
    task=RelationClassificationTask,
    head_settings=HeadSettings,
    head_arguments=lambda head, data: {"labels": data.labels},
    kept=("labels",),
    data_arguments=lambda saved: {"labels": saved.get("labels")},
    prepare_vocabulary=with_markers,
    guess_settings=guess_relations,
)
