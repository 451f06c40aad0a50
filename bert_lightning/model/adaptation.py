"""Adaptation of a checkpoint to another vocabulary or to longer sequences, before a model is built from it."""

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
    """Adapt a checkpoint to another vocabulary, or to a number of entries.

    With a vocabulary, entries that both vocabularies have keep their embeddings, even if their ids differ. With a
    number, the first ids keep their embeddings; the vocabulary is kept if it has at most that many entries. New
    embeddings are initialised like the model's weights, and new biases are 0.

    Raises:
        CheckpointError: a vocabulary is given but the checkpoint has none, the checkpoint has no word embeddings, or
            its tables do not have `vocab_size` rows.
        ValueError: there would be no entry.
    """
    size = vocabulary if isinstance(vocabulary, int) else len(vocabulary.entries)
    if isinstance(vocabulary, bool) or size < 1:
        raise ValueError(f"the vocabulary cannot be resized to {vocabulary}; it must have at least one entry")
    if _WORDS not in checkpoint.tensors:
        raise CheckpointError(f"{checkpoint.path} has no tensor for {_WORDS}")
    old_size = checkpoint.config.get("vocab_size", _DEFAULTS.vocab_size)
    for name in _BY_WORD:
        _require_rows(checkpoint, name, old_size)
    if isinstance(vocabulary, int):
        old_rows = new_rows = torch.arange(min(size, old_size))
    elif checkpoint.vocabulary is None:
        raise CheckpointError(f"{checkpoint.path} has no vocabulary with which the new one could be matched")
    else:
        old_ids = {entry: number for number, entry in enumerate(checkpoint.vocabulary.entries) if entry}
        kept = [(old_ids[entry], number) for number, entry in enumerate(vocabulary.entries) if entry in old_ids]
        old_rows, new_rows = torch.tensor(kept, dtype=torch.long).reshape(-1, 2).T
    deviation = checkpoint.config.get("initializer_range", 0.02)

    def resize(name: str, old: Tensor) -> Tensor:
        new = old.new_zeros(size, *old.shape[1:])
        if not name.endswith("bias"):
            nn.init.trunc_normal_(new, std=deviation, a=-2 * deviation, b=2 * deviation)
        new[new_rows] = old[old_rows]
        return new

    tensors = {name: resize(name, t) if name in _BY_WORD else t for name, t in checkpoint.tensors.items()}
    old_vocabulary = checkpoint.vocabulary
    if old_vocabulary is not None and len(old_vocabulary.entries) > size:
        old_vocabulary = None
    return dataclasses.replace(
        checkpoint,
        config={**checkpoint.config, "vocab_size": size},
        tensors=tensors,
        vocabulary=old_vocabulary if isinstance(vocabulary, int) else vocabulary,
    )


def interpolate_positions(checkpoint: Checkpoint, num_positions: int) -> Checkpoint:
    """Adapt a checkpoint to longer sequences by linear interpolation of its position table.

    The first and the last position keep their embeddings.

    Raises:
        CheckpointError: the checkpoint has more positions, or its table and its configuration disagree.
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
    """Refuse a table that differs from the configuration, because resizing it would hide the difference.

    Raises:
        CheckpointError: the tensor exists and has another number of rows; the message names it.
    """
    table = checkpoint.tensors.get(name)
    if table is not None and (table.ndim != (1 if name.endswith("bias") else 2) or table.shape[0] != num_rows):
        raise CheckpointError(
            f"{checkpoint.path}: {name} has shape {tuple(table.shape)}, expected {num_rows!r} rows, as configured"
        )
