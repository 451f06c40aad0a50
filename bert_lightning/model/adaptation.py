"""A checkpoint fitted to another vocabulary or to longer sequences, before a model is built from it."""

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bert_lightning.checkpoints.checkpoint import Checkpoint
from bert_lightning.checkpoints.errors import CheckpointError
from bert_lightning.checkpoints.tokenizers.tokenizer_files import Vocabulary
from bert_lightning.model.config import BertConfig

_WORDS, _POSITIONS = "encoder.embeddings.word.weight", "encoder.embeddings.position.weight"
_BY_WORD = (_WORDS, "mlm_head.decoder.weight", "mlm_head.bias")
_DEFAULTS = BertConfig()


def resize_vocabulary(checkpoint: Checkpoint, vocabulary: Vocabulary | int) -> Checkpoint:
    """Fit a checkpoint to another vocabulary, or to a number of entries.

    With a vocabulary the rows of the entries that both have are kept, whatever their ids; with a number the rows of
    the first ids, and the vocabulary with them if it has no more entries. New rows are drawn as the model's weights
    are, new biases are 0.

    Raises:
        CheckpointError: a vocabulary for a checkpoint that carries none, or a checkpoint without word embeddings, or
            one whose tables do not have `vocab_size` rows.
        ValueError: less than one entry.
    """
    size = vocabulary if isinstance(vocabulary, int) else len(vocabulary.entries)
    if isinstance(vocabulary, bool) or size < 1:
        raise ValueError(f"the vocabulary cannot be resized to {vocabulary}")
    if _WORDS not in checkpoint.tensors:
        raise CheckpointError(f"{checkpoint.path} has no tensor for {_WORDS}")
    old_size = checkpoint.config.get("vocab_size", _DEFAULTS.vocab_size)
    for name in _BY_WORD:
        _require_rows(checkpoint, name, old_size)
    if isinstance(vocabulary, int):
        old_rows = new_rows = torch.arange(min(size, old_size))
    elif checkpoint.vocabulary is None:
        raise CheckpointError(f"{checkpoint.path} carries no vocabulary that a new one could be matched with")
    else:
        places = {entry: number for number, entry in enumerate(checkpoint.vocabulary.entries) if entry}
        kept = [(places[entry], number) for number, entry in enumerate(vocabulary.entries) if entry in places]
        old_rows, new_rows = torch.tensor(kept, dtype=torch.long).reshape(-1, 2).T
    deviation = checkpoint.config.get("initializer_range", 0.02)

    def resized(name: str, old: Tensor) -> Tensor:
        new = old.new_zeros(size, *old.shape[1:])
        if not name.endswith("bias"):
            nn.init.trunc_normal_(new, std=deviation, a=-2 * deviation, b=2 * deviation)
        new[new_rows] = old[old_rows]
        return new

    tensors = {name: resized(name, t) if name in _BY_WORD else t for name, t in checkpoint.tensors.items()}
    carried = checkpoint.vocabulary
    if carried is not None and len(carried.entries) > size:
        carried = None
    return dataclasses.replace(
        checkpoint,
        config={**checkpoint.config, "vocab_size": size},
        tensors=tensors,
        vocabulary=carried if isinstance(vocabulary, int) else vocabulary,
    )


def interpolate_positions(checkpoint: Checkpoint, num_positions: int) -> Checkpoint:
    """Fit a checkpoint to longer sequences: its position table is stretched linearly, from first to last position.

    Raises:
        CheckpointError: fewer positions than the checkpoint has, or its table and its configuration disagree.
    """
    old = checkpoint.config.get("max_position_embeddings", _DEFAULTS.max_position_embeddings)
    _require_rows(checkpoint, _POSITIONS, old)
    if num_positions < old:
        raise CheckpointError(f"{checkpoint.path} has {old} positions, which cannot be stretched to {num_positions}")
    tensors = dict(checkpoint.tensors)
    if _POSITIONS in tensors and num_positions > old:
        table = tensors[_POSITIONS]
        wide = table.to(torch.promote_types(table.dtype, torch.float32)).T[None]
        stretched = F.interpolate(wide, size=num_positions, mode="linear", align_corners=True)
        tensors[_POSITIONS] = stretched[0].T.contiguous().to(table.dtype)
    return dataclasses.replace(
        checkpoint, config={**checkpoint.config, "max_position_embeddings": num_positions}, tensors=tensors
    )


def _require_rows(checkpoint: Checkpoint, name: str, num_rows: object) -> None:
    """Refuse a table that differs from the configuration, since resizing it would hide the difference.

    Raises:
        CheckpointError: the tensor exists and has another number of rows; the message names it.
    """
    table = checkpoint.tensors.get(name)
    if table is not None and (table.ndim != (1 if name.endswith("bias") else 2) or table.shape[0] != num_rows):
        raise CheckpointError(
            f"{checkpoint.path}: {name} has shape {tuple(table.shape)}, expected {num_rows!r} rows, as configured"
        )
