"""Data and start weights of the benchmark of fine-tuning: real or generated, or a share of them."""

import argparse
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from generated import SMALL_MODEL, vocabulary, write_mrpc, write_squad, write_sst2

from bert_lightning.checkpoints.reading import read_checkpoint
from bert_lightning.checkpoints.tokenizers.tokenizer_files import Vocabulary, read_vocabulary
from bert_lightning.model import BertConfig, BertForQuestionAnswering, BertForSequenceClassification
from bert_lightning.model.pretrained import PretrainedModel, without_head

# Training examples of SST-2 and MRPC, and training paragraphs of SQuAD v1.1. Generated data has the share of these.
NUM_SST2, NUM_MRPC, NUM_SQUAD = 67_349, 3_668, 18_896


class TaskEntry(NamedTuple):
    """Entry of a task in the benchmark."""

    name: str
    metric: str
    folder: str
    """its folder in the one that BERT_LIGHTNING_DATA names"""
    data: dict[str, str | int]
    """keys of the configuration below `data`"""
    start: Callable[[BertConfig], PretrainedModel]
    """makes a model from a configuration"""
    num_scored: int
    """number of validation examples that are scored"""
    share: float
    """default share of the training examples: one minute per contender on two cores"""
    generate: Callable[[Path, float], None]
    """writes generated files with a share of the training examples"""
    sample: Callable[[Path, Path, float], None]
    """copies files from one folder to another, with a share of the training examples"""


def sample_rows(source: Path, target: Path, share: float) -> None:
    """Copy `train.tsv` and `dev.tsv`, keeping each training example with the probability `share`."""
    generator = random.Random(0)
    [header, *rows] = (source / "train.tsv").read_text(encoding="utf-8").splitlines()
    kept = [row for row in rows if generator.random() < share]
    (target / "train.tsv").write_text("\n".join([header, *kept]) + "\n", encoding="utf-8")
    (target / "dev.tsv").write_bytes((source / "dev.tsv").read_bytes())


def sample_squad(source: Path, target: Path, share: float) -> None:
    """Copy SQuAD, keeping each training paragraph and its questions with the probability `share`."""
    generator = random.Random(0)
    content = json.loads((source / "train-v1.1.json").read_text(encoding="utf-8"))
    for article in content["data"]:
        article["paragraphs"] = [each for each in article["paragraphs"] if generator.random() < share]
    (target / "train-v1.1.json").write_text(json.dumps(content), encoding="utf-8")
    (target / "dev-v1.1.json").write_bytes((source / "dev-v1.1.json").read_bytes())


TASKS = {
    "sst2": TaskEntry(
        "text-classification",
        "accuracy",
        "glue/SST-2",
        {"dataset": "glue/sst2", "max_seq_length": 128},
        lambda config: BertForSequenceClassification(config, labels=["0", "1"]),
        500,
        0.01,
        lambda folder, share: write_sst2(folder, round(NUM_SST2 * share), 500),
        sample_rows,
    ),
    "mrpc": TaskEntry(
        "text-classification",
        "f1",
        "glue/MRPC",
        {"dataset": "glue/mrpc", "max_seq_length": 128},
        lambda config: BertForSequenceClassification(config, labels=["0", "1"]),
        408,
        0.2,
        lambda folder, share: write_mrpc(folder, round(NUM_MRPC * share), 408),
        sample_rows,
    ),
    "squad": TaskEntry(
        "question-answering",
        "squad_f1",
        "squad",
        {"dataset": "squad-v1.1", "max_seq_length": 384, "doc_overlap": 128},
        BertForQuestionAnswering,
        100,
        0.002,
        lambda folder, share: write_squad(folder, round(NUM_SQUAD * share), 20),
        sample_squad,
    ),
}


def write_data(options: argparse.Namespace, folder: Path) -> Vocabulary:
    """Write the share of the data to use, and return the vocabulary for it."""
    entry, folder_of_data = TASKS[options.task], os.environ.get("BERT_LIGHTNING_DATA")
    share = options.share if options.share is not None else entry.share
    source = options.data or (Path(folder_of_data) / entry.folder if folder_of_data else None)
    (folder / "data").mkdir()
    if source is None or not (options.data or source.is_dir()):
        entry.generate(folder / "data", share)
    else:
        entry.sample(source, folder / "data", share)
    if folder_of_data is not None:
        published = read_vocabulary(Path(folder_of_data) / "vocab/bert-base-uncased.txt")
        if published is not None:
            return published
    return vocabulary()


def write_start(options: argparse.Namespace, words: Vocabulary, folder: Path) -> None:
    """Write the weights that all start from, including the head's, to a folder that transformers reads."""
    entry = TASKS[options.task]
    torch.manual_seed(0)
    if options.checkpoint is None:
        config = BertConfig(vocab_size=len(words.entries), **SMALL_MODEL)
        entry.start(config).save_pretrained(folder, words)
        return
    encoder = without_head(read_checkpoint(options.checkpoint))
    if options.task == "squad":
        BertForQuestionAnswering.from_checkpoint(encoder).save_pretrained(folder)
    else:
        BertForSequenceClassification.from_checkpoint(encoder, labels=["0", "1"]).save_pretrained(folder)
