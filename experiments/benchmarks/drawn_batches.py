"""Batches of random tokens, and a task that trains on them in Lightning's loop, for the checks of a GPU."""

from typing import Any

import numpy as np
import torch
from lightning import Callback, Trainer
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from bert_lightning.checkpoints.tokenizers.tokenizer_files import Vocabulary
from bert_lightning.data.loading.batching import Batch, to_batch, to_packed_batch
from bert_lightning.model import BertConfig, BertForPreTraining
from bert_lightning.optim.optimizers import AdamW
from bert_lightning.optim.schedules import Constant
from bert_lightning.tasks.pretraining.task import PretrainingTask
from bert_lightning.tasks.task import Optimization
from bert_lightning.text.wordpiece import SPECIAL_TOKENS, WordPieceTokenizer

MASKED_SHARE = 0.15


class Sequences:
    """Sequences of one batch, before they are laid out."""

    def __init__(self, lengths: NDArray[np.int64], generator: np.random.Generator, vocab_size: int) -> None:
        self.lengths = lengths
        width = int(lengths.max())
        self.real = np.arange(width)[None, :] < lengths[:, None]
        self.input_ids = np.where(self.real, generator.integers(5, vocab_size, self.real.shape), 0)
        self.token_type_ids = (self.real & (np.arange(width)[None, :] >= lengths[:, None] // 2)).astype(np.int64)
        self.masked = self.real & (generator.random(self.real.shape) < MASKED_SHARE)
        self.labels = self.input_ids[self.masked]
        self.next_sentence = generator.integers(0, 2, len(lengths))

    def ours(self, packed: bool) -> Batch:
        """Return the micro-batch as our data modules lay it out: padded, or end to end."""
        labels = {"masked_labels": self.labels, "sentence_labels": self.next_sentence}
        if packed:
            positions = np.flatnonzero(self.masked[self.real])
            return to_packed_batch(
                self.input_ids, self.token_type_ids, self.lengths, masked_positions=positions, **labels
            )
        positions = np.flatnonzero(self.masked)
        return to_batch(self.input_ids, self.token_type_ids, self.lengths, masked_positions=positions, **labels)


def task_of(
    config: BertConfig, sequence_length: int, learning_rate: float, log_every_n_steps: int
) -> PretrainingTask:
    """Return our task with a model drawn from a fixed seed, and a constant learning rate."""
    torch.manual_seed(0)
    vocabulary = Vocabulary(SPECIAL_TOKENS)
    optimizer: Any = AdamW(learning_rate=learning_rate)
    return PretrainingTask(
        BertForPreTraining(config),
        config,
        WordPieceTokenizer(vocabulary),
        sequence_length,
        optimization=Optimization(optimizer, Constant(), 10**6, 1.0, 0, log_every_n_steps),
    )


def train(task: PretrainingTask, batches: list[Batch], device: str, precision: Any, callback: Callback) -> None:
    """Train one step per batch in Lightning's loop."""
    trainer = Trainer(
        accelerator=device,
        devices=1,
        precision=precision,
        max_steps=len(batches),
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    micro_batches: Any = [[batch] for batch in batches]
    trainer.fit(task, train_dataloaders=DataLoader(micro_batches, batch_size=None, collate_fn=lambda batch: batch))
