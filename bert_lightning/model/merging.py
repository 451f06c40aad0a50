"""Merging of a tuning into weights, after a check that a checkpoint has exactly the parameters of its tuning."""

import torch

from bert_lightning.checkpoints.checkpoint import Checkpoint
from bert_lightning.model.tuning.table import merged, tune_as


def plain(checkpoint: Checkpoint) -> Checkpoint:
    """Return a checkpoint of a plain model: what tuning added is merged into the base's weights.

    Raises:
        CheckpointError: the tuning is not known here or cannot be merged, or the checkpoint does not have exactly its
            parameters.
    """
    if checkpoint.tuning is None:
        return checkpoint
    # Imported here, because both modules import this one: loading a checkpoint merges its tuning.
    from bert_lightning.model.encoder import BertEncoder
    from bert_lightning.model.pretrained import compare, config_of

    with torch.device("meta"):
        encoder = BertEncoder(config_of(checkpoint))
        tune_as(encoder, checkpoint)
        compare(encoder, checkpoint)
    return merged(checkpoint)
