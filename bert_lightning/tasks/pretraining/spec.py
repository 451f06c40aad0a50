"""The description of pre-training."""

from typing import Any

import torch

from bert_lightning.data.corpus.token_store import TokenStore
from bert_lightning.data.loading.module import used_splits
from bert_lightning.data.pretraining.module import PretrainingDataModule
from bert_lightning.data.pretraining.objectives import OBJECTIVES, ObjectiveName
from bert_lightning.data.pretraining.settings import PretrainingData
from bert_lightning.model import BertConfig, BertForMaskedLM, BertForPreTraining
from bert_lightning.tasks.pretraining.task import PretrainingTask
from bert_lightning.tasks.spec import Arguments, Saved, TaskSpec
from bert_lightning.text.wordpiece import WordPieceTokenizer

# Checkpoints of the first versions, which had only this objective, do not name it.
_FIRST_OBJECTIVE: ObjectiveName = "next-sentence"


def pretraining_model(config: BertConfig, objective: ObjectiveName) -> BertForPreTraining | BertForMaskedLM:
    """Build the model for an objective, with a head for sentence pairs if the objective trains one."""
    return BertForPreTraining(config) if OBJECTIVES[objective].metric else BertForMaskedLM(config)


def _data(settings: PretrainingData, tokenizer: WordPieceTokenizer, **arguments: Any) -> PretrainingDataModule:
    """Build the data module, which reads the tokenizer from the token stores itself."""
    return PretrainingDataModule(settings, **arguments)


def _stored_tokenizer(settings: PretrainingData, split: str | None) -> WordPieceTokenizer:
    [source, *_] = used_splits(settings, split).values()
    return TokenStore(next(iter(source)) if isinstance(source, dict) else source).tokenizer


def _task_arguments(data: PretrainingDataModule, saved: Saved) -> Arguments:
    # The token counts of the training text come from the checkpoint if that text is not opened.
    in_training = "train" in data.stores
    counts = torch.from_numpy(data.training_token_counts()) if in_training else saved.get("token_counts")
    settings = data.settings
    return {"max_seq_length": settings.longest, "token_counts": counts, "objective": settings.objective}


PRETRAINING = TaskSpec(
    name=PretrainingTask.name,
    data_settings=PretrainingData,
    data=_data,
    model=pretraining_model,
    task=PretrainingTask,
    head_arguments=lambda head, data: {"objective": data.settings.objective},
    task_arguments=_task_arguments,
    saved_head_arguments=lambda checkpoint: {
        "objective": checkpoint.task_settings.get("objective", _FIRST_OBJECTIVE)
    },
    saved_task_arguments=dict,
    stored_tokenizer=_stored_tokenizer,
    num_segments=lambda settings: 2 if OBJECTIVES[settings.objective].metric is not None else 1,
    keeps_every_head=True,
)
