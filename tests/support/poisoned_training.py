"""Training of a tiny model in which the loss of chosen steps is not finite."""

import numpy as np
import torch
from lightning import Trainer
from torch.utils.data import DataLoader

from bert_lightning.checkpoints.tokenizers.tokenizer_files import Vocabulary
from bert_lightning.data.loading.batching import to_batch
from bert_lightning.errors import WorkError
from bert_lightning.model import BertConfig, BertForPreTraining
from bert_lightning.optim.optimizers import AdamW
from bert_lightning.optim.schedules import Constant
from bert_lightning.tasks.pretraining.task import PretrainingTask
from bert_lightning.tasks.task import Optimization
from bert_lightning.text.wordpiece import SPECIAL_TOKENS, WordPieceTokenizer


class Poisoned(PretrainingTask):
    """Task in which the loss of some steps is not a number. It keeps the weights after each step."""

    poisoned: tuple[int, ...] = ()
    only_gradient = False

    def sums(self, batch):
        sums = super().sums(batch)
        if self.trainer.global_step + 1 in self.poisoned:
            if self.only_gradient:
                sums.register_hook(lambda gradient: gradient * float("inf"))
                return sums
            return sums * float("nan")
        return sums

    def on_train_batch_end(self, *arguments):
        super().on_train_batch_end(*arguments)
        self.history.append(torch.cat([weight.detach().flatten() for weight in self.parameters()]))


def trained(
    folder,
    poisoned=(),
    non_finite="stop",
    optimizer=None,
    num_steps=6,
    only_gradient=False,
    accelerator="cpu",
    plugins=(),
):
    """Train, and return the task and the error that stopped training, if any."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    tokenizer = WordPieceTokenizer(Vocabulary(SPECIAL_TOKENS))
    optimization = Optimization(
        optimizer or AdamW(learning_rate=1e-2), Constant(), num_steps, 1.0, 0, 2, non_finite=non_finite
    )
    task = Poisoned(BertForPreTraining(config), config, tokenizer, 8, optimization=optimization)
    task.poisoned, task.only_gradient, task.history = poisoned, only_gradient, []
    generator = np.random.default_rng(0)
    steps = []
    for step in range(num_steps):
        ids = generator.integers(5, 50, (4, 8))
        labels = {"masked_positions": np.array([1, 9]), "masked_labels": np.array([7, 8])}
        batch = to_batch(
            ids, np.zeros_like(ids), np.full(4, 8), sentence_labels=np.zeros(4, dtype=np.int64), **labels
        )
        steps.append([{**batch, "samples": np.arange(4) + 4 * step}])
    trainer = Trainer(
        accelerator=accelerator,
        max_steps=num_steps,
        plugins=list(plugins),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    try:
        trainer.fit(task, DataLoader(steps, batch_size=None, collate_fn=lambda batch: batch))
    except WorkError as error:
        return task, error
    return task, None
