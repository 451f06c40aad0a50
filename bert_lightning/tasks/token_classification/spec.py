"""The description of token classification."""

from bert_lightning.data.datasets.guesses import guess_tags
from bert_lightning.model import BertForTokenClassification
from bert_lightning.tasks.spec import Arguments, TaskSpec
from bert_lightning.tasks.token_classification.data import TokenClassificationDataModule
from bert_lightning.tasks.token_classification.settings import TokenClassificationData, TokenClassificationHead
from bert_lightning.tasks.token_classification.task import TokenClassificationTask


def _head_arguments(head: TokenClassificationHead, data: TokenClassificationDataModule) -> Arguments:
    return {"labels": data.labels, "crf": head.crf, "tag_scheme": data.tag_scheme if head.crf else None}


TOKEN_CLASSIFICATION = TaskSpec(
    name=TokenClassificationTask.name,
    data_settings=TokenClassificationData,
    data=TokenClassificationDataModule,
    model=BertForTokenClassification,
    task=TokenClassificationTask,
    head_settings=TokenClassificationHead,
    head_arguments=_head_arguments,
    head_options=lambda tensors: {"crf": "crf.transitions" in tensors},
    kept=("labels",),
    data_arguments=lambda saved: {"labels": saved.get("labels")},
    guess_settings=guess_tags,
)
