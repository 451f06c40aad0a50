"""A digest of what training draws from a token store, by which versions of the code are compared."""

import hashlib
from pathlib import Path
from typing import get_args

import numpy as np

from bert_lightning.data.loading.module import TrainingLength
from bert_lightning.data.pretraining.module import PretrainingDataModule
from bert_lightning.data.pretraining.objectives import OBJECTIVES
from bert_lightning.data.pretraining.settings import Batching, PretrainingData

STEPS = (0, 1, 40, 777)
_ARRAYS = ("input_ids", "token_type_ids", "masked_positions", "masked_labels", "sentence_labels", "samples")


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
            digest = hashlib.sha256()
            for batch in batches:
                for name in _ARRAYS:
                    if name in batch:
                        digest.update(name.encode() + np.asarray(batch[name], dtype=np.int64).tobytes())
            digests[f"{objective}, {batching}"] = digest.hexdigest()
    return digests
