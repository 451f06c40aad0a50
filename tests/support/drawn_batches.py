"""A digest of what training draws from a token store, by which versions of the code are compared.

How a version arranges the sequences of a batch, and how it pads them, does not count.
"""

import hashlib
from itertools import pairwise
from pathlib import Path
from typing import get_args

import numpy as np

from bert_lightning.data.loading.batching import Batch
from bert_lightning.data.loading.module import TrainingLength
from bert_lightning.data.pretraining.module import PretrainingDataModule
from bert_lightning.data.pretraining.objectives import OBJECTIVES
from bert_lightning.data.pretraining.settings import Batching, PretrainingData

STEPS = (0, 1, 40, 777)


def drawn_batches(store: Path) -> dict[str, str]:
    """Return the SHA-256 of some training batches and a held-out batch, for each objective and batching."""
    digests = {}
    for objective in OBJECTIVES:
        for batching in get_args(Batching):
            settings = PretrainingData(
                str(store), str(store), objective=objective, batching=batching, max_seq_length=32, batch_size=8
            )
            data = PretrainingDataModule(settings, length=TrainingLength(1000, seed=3))
            batches = [batch for step in STEPS for batch in data.training_batches(step, data.plan, 0, 1)]
            batches.append(data.evaluation_batch("validation", np.arange(16)))
            content = repr([described(batch) for batch in batches])
            digests[f"{objective}, {batching}"] = hashlib.sha256(content.encode()).hexdigest()
    return digests


def described(batch: Batch) -> list[object]:
    """Return the samples of a batch in the order of their numbers, each with its masked positions and labels."""
    ids, types = batch["input_ids"], batch["token_type_ids"]
    if "packing" in batch:
        bounds = batch["packing"].boundaries.tolist()
        stretches = list(pairwise(bounds))
    else:
        mask, width = batch["attention_mask"], ids.shape[1]
        lengths = mask.sum(1).tolist() if mask is not None else [width] * len(ids)
        stretches = [(row * width, row * width + length) for row, length in enumerate(lengths)]
    ids, types = ids.flatten().tolist(), types.flatten().tolist()
    masked = list(zip(batch["masked_positions"].tolist(), batch["masked_labels"].tolist(), strict=True))
    labels = batch["sentence_labels"].tolist() if "sentence_labels" in batch else [None] * len(stretches)
    samples = np.asarray(batch["samples"]).tolist()
    return sorted(
        [
            [*sample, label, ids[start:stop], types[start:stop]],
            [(position - start, token) for position, token in masked if start <= position < stop],
        ]
        for sample, label, (start, stop) in zip(samples, labels, stretches[: len(samples)], strict=True)
    )
