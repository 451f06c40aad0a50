"""A pre-trained model, and experiments that tune it."""

from pathlib import Path

import torch
import yaml

from bert_lightning.model import BertConfig, BertForPreTraining
from bert_lightning.text.wordpiece import WordPieceTokenizer
from tests.support.small_corpus import SMALL_MODEL
from tests.support.task_data import short_experiment


def write_base(folder: Path, tokenizer: WordPieceTokenizer) -> Path:
    """Write a pre-trained model of transformers' form, with values that no initialisation gives."""
    torch.manual_seed(3)
    model = BertForPreTraining(BertConfig.preset("tiny", vocab_size=len(tokenizer), **SMALL_MODEL["config"]))
    for parameter in model.parameters():
        parameter.data += torch.randn_like(parameter) * 0.02
    model.save_pretrained(folder, tokenizer.vocabulary)
    return folder


def write_experiment(
    task: str, folder: Path, base: Path, store: Path, validation_store: Path, tables: dict[str, Path]
) -> Path:
    """Write an experiment that trains four steps on top of the base; return its file."""
    values = short_experiment(task, (store, validation_store), tables, folder)
    values |= {"model": {"pretrained": str(base)}, "optimizer": {"learning_rate": 1e-2}}
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(values))
    return path
