"""Micro-batches (token sequences as tensors, padded or packed), and the order in which samples are drawn."""

from bisect import bisect_left, insort
from collections.abc import Mapping, Sequence
from typing import NotRequired, TypedDict

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from bert_lightning.data.loading.randomness import derive_key, permute
from bert_lightning.model.layers.packing import Packing, round_size

# Sequences are padded to one of this many lengths between two powers of two, so that there are few tensor shapes.
NUM_LENGTHS = 8
# The samples of this many batches are sorted by length together before they are cut into batches.
BUCKET_BATCHES = 50


class Batch(TypedDict):
    """A micro-batch of B sequences, padded to S tokens or packed to T tokens without padding.

    The keys that are not required belong to some tasks, to labelled data, or to one of the two layouts. A custom task
    may add further keys.
    """

    input_ids: Tensor
    """(B, S) or packed (T,)"""
    token_type_ids: Tensor
    """(B, S) or packed (T,)"""
    attention_mask: NotRequired[Tensor | None]
    """(B, S) bool, true for tokens; None if nothing is padded"""
    packing: NotRequired[Packing]
    """the boundaries of the sequences of a packed micro-batch"""
    num_tokens: int
    """without padding"""
    num_token_pairs: int
    """the squared lengths summed: the size of what attention computes"""
    num_sequences: int
    samples: NotRequired[Tensor | NDArray[np.int64]]
    """training: the names of samples in a report: numbers (B,), or epochs and indices (B, 2); a tensor once loaded"""
    numbers: NotRequired[Tensor]
    """fine-tuning: (B,) the number of each sequence in its split"""

    labels: NotRequired[Tensor]
    """classification: (B,) or (B, L); tags: (B, W)"""
    start_positions: NotRequired[Tensor]
    """question answering: (B,) first piece of the answer; 0 for no answer"""
    end_positions: NotRequired[Tensor]
    """question answering: (B,) last piece of the answer"""
    choice_mask: NotRequired[Tensor]
    """multiple choice: (B, C) bool, true for choices that exist"""
    entity_positions: NotRequired[Tensor]
    """relations: (B, 2) positions of the entity markers"""
    positions: NotRequired[Tensor]
    """tags: (B, W) position of each word's first piece"""
    word_mask: NotRequired[Tensor]
    """tags: (B, W) bool, true for words that this window answers"""
    masked_positions: NotRequired[Tensor]
    """pre-training: (M,) positions in the flattened micro-batch"""
    masked_labels: NotRequired[Tensor]
    """pre-training: (M,) the original tokens there"""
    sentence_labels: NotRequired[Tensor]
    """pre-training with pairs: (B,)"""
    unlabelled: NotRequired["Batch"]
    """cloze: a micro-batch of unlabelled texts with masked words"""


def assemble(
    firsts: Sequence[Sequence[int] | NDArray[np.generic]],
    seconds: Sequence[Sequence[int] | NDArray[np.generic] | None] | None,
    cls_id: int,
    sep_id: int,
    pad_id: int,
    max_seq_length: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Join token ids to [CLS] A [SEP], or [CLS] A [SEP] B [SEP], and pad them. Single texts may be among pairs.

    The padded length is that of the longest sequence, rounded up by `round_size` but at most to `max_seq_length`: to
    a multiple of 8, and above 128, 256 and 512 to a multiple of 16, 32 and 64, and so on.

    Returns:
        input_ids (B, S), token_type_ids (B, S), lengths (B,).

    >>> ids, types, lengths = assemble([[7, 8], [9]], [[5], [6]], cls_id=1, sep_id=2, pad_id=0, max_seq_length=6)
    >>> ids.tolist()
    [[1, 7, 8, 2, 5, 2], [1, 9, 2, 6, 2, 0]]
    >>> types.tolist(), lengths.tolist()
    ([[0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 0]], [6, 5])
    """
    lengths = np.array([len(first) for first in firsts], dtype=np.int64) + 2
    if seconds is not None:
        lengths += np.array([0 if second is None else len(second) + 1 for second in seconds], dtype=np.int64)
    longest = int(lengths.max(initial=1))
    width = max(longest, min(round_size(longest, NUM_LENGTHS), max_seq_length))
    input_ids = np.full((len(firsts), width), pad_id, dtype=np.int64)
    token_type_ids = np.zeros((len(firsts), width), dtype=np.int64)
    input_ids[:, 0] = cls_id
    for number, first in enumerate(firsts):
        end = len(first) + 1
        input_ids[number, 1:end] = first
        input_ids[number, end] = sep_id
        second = seconds[number] if seconds is not None else None
        if second is not None:
            stop = lengths[number] - 1
            input_ids[number, end + 1 : stop] = second
            input_ids[number, stop] = sep_id
            token_type_ids[number, end + 1 : stop + 1] = 1
    return input_ids, token_type_ids, lengths


def to_batch(
    input_ids: NDArray[np.int64], token_type_ids: NDArray[np.int64], lengths: NDArray[np.int64], **others: ArrayLike
) -> Batch:
    """Make a padded micro-batch from (B, S) arrays; `others` are arrays for further keys, such as labels."""
    width = input_ids.shape[1]
    padded = bool((lengths < width).any())
    attention_mask = torch.from_numpy(np.arange(width)[None, :] < lengths[:, None]) if padded else None
    batch = _batch(torch.from_numpy(input_ids), torch.from_numpy(token_type_ids), lengths, others)
    batch["attention_mask"] = attention_mask
    return batch


def to_packed_batch(
    input_ids: NDArray[np.int64], token_type_ids: NDArray[np.int64], lengths: NDArray[np.int64], **others: ArrayLike
) -> Batch:
    """Make a packed micro-batch from padded (B, S) arrays; `others` are arrays for further keys."""
    is_token = np.arange(input_ids.shape[1])[None, :] < lengths[:, None]
    boundaries = torch.zeros(len(lengths) + 1, dtype=torch.int32)
    boundaries[1:] = torch.from_numpy(np.cumsum(lengths))
    ids, types = torch.from_numpy(input_ids[is_token]), torch.from_numpy(token_type_ids[is_token])
    batch = _batch(ids, types, lengths, others)
    batch["packing"] = Packing(boundaries, int(lengths.max(initial=0)))
    return batch


def _batch(
    input_ids: Tensor, token_type_ids: Tensor, lengths: NDArray[np.int64], others: Mapping[str, ArrayLike]
) -> Batch:
    further = {name: torch.from_numpy(np.asarray(value)) for name, value in others.items()}
    return {
        "input_ids": input_ids,
        "token_type_ids": token_type_ids,
        "num_tokens": int(lengths.sum()),
        "num_token_pairs": int((lengths**2).sum()),
        "num_sequences": len(lengths),
        **further,  # type: ignore[typeddict-item]
    }


def fit_into_bins(lengths: NDArray[np.int64], num_bins: int, room: int) -> list[list[int]]:
    """Distribute sequences over bins of `room` tokens each; return the numbers of the sequences in each bin.

    The longest sequence comes first, and each goes into the fullest bin that has room for it (best-fit decreasing).
    Sequences that fit nowhere are left out.

    >>> fit_into_bins(np.array([2, 5, 3, 4]), num_bins=2, room=7)
    [[1, 0], [3, 2]]
    """
    bins: list[list[int]] = [[] for _ in range(num_bins)]
    # (free tokens, bin), ascending.
    free = [(room, number) for number in range(num_bins)]
    for number in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[number])
        fullest = bisect_left(free, (length, -1))
        if fullest < len(free):
            left, bin_number = free.pop(fullest)
            bins[bin_number].append(number)
            insort(free, (left - length, bin_number))
    return bins


def shuffled(seed: int, num_samples: int, numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the epochs and indices of samples, given their numbers in an endless training.

    Every epoch has another random order.
    """
    epochs = numbers // num_samples
    indices = np.empty_like(numbers)
    for epoch in np.unique(epochs):
        same = epochs == epoch
        indices[same] = permute(derive_key(seed, int(epoch), "order"), num_samples, numbers[same] % num_samples)
    return epochs, indices


def length_bucketed(
    seed: int, lengths: NDArray[np.int64], batch_size: int, step: int, num_steps: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the epochs and indices of the samples of one step out of `num_steps`, all of similar length.

    The endless shuffled stream is cut into buckets of at most `BUCKET_BATCHES` batches or one epoch. A bucket is
    sorted by length and cut into batches, which are drawn in random order. The last bucket ends with the training,
    so all samples are seen equally often, or some of them once more.
    """
    size = min(BUCKET_BATCHES, -(-len(lengths) // batch_size))
    bucket, offset = divmod(step, size)
    size = min(size, num_steps - bucket * size) if bucket == num_steps // size else size
    start = (step - offset) * batch_size
    epochs, indices = shuffled(seed, len(lengths), np.arange(start, start + size * batch_size))
    by_length = np.argsort(lengths[indices], kind="stable")
    order = permute(derive_key(seed, bucket, "buckets"), size, np.array([offset]))[0]
    batch = by_length[order * batch_size : (order + 1) * batch_size]
    # Shuffle inside the batch, so that all micro-batches have about the same lengths.
    batch = batch[permute(derive_key(seed, step, "places"), len(batch), np.arange(len(batch)))]
    return epochs[batch], indices[batch]
