"""Token sequences to tensors, padded or end to end, and the order in which samples are drawn."""

from bisect import bisect_left, insort
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bert_lightning.data.loading.randomness import derive_key, permute
from bert_lightning.model.packing import Packing

Batch = dict[str, Any]
# Lengths are padded to a multiple of this, which keeps the number of tensor shapes small.
LENGTH_MULTIPLE = 8
# This many batches are sorted by length among themselves before they are cut.
BUCKET_BATCHES = 50


def assemble(
    firsts: Sequence[Sequence[int] | NDArray[Any]],
    seconds: Sequence[Sequence[int] | NDArray[Any]] | None,
    cls_id: int,
    sep_id: int,
    pad_id: int,
    max_seq_length: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """[CLS] A [SEP] or [CLS] A [SEP] B [SEP], padded to the longest and then to a round length within the limit.

    Returns:
        input_ids (B, S), token_type_ids (B, S), lengths (B,).
    """
    extra = 2 if seconds is None else 3
    lengths = np.array([len(first) for first in firsts], dtype=np.int64) + extra
    if seconds is not None:
        lengths += np.array([len(second) for second in seconds], dtype=np.int64)
    longest = int(lengths.max(initial=1))
    width = max(longest, min(-(-longest // LENGTH_MULTIPLE) * LENGTH_MULTIPLE, max_seq_length))
    input_ids = np.full((len(firsts), width), pad_id, dtype=np.int64)
    token_type_ids = np.zeros((len(firsts), width), dtype=np.int64)
    input_ids[:, 0] = cls_id
    for row, first in enumerate(firsts):
        end = len(first) + 1
        input_ids[row, 1:end] = first
        input_ids[row, end] = sep_id
        if seconds is not None:
            stop = lengths[row] - 1
            input_ids[row, end + 1 : stop] = seconds[row]
            input_ids[row, stop] = sep_id
            token_type_ids[row, end + 1 : stop + 1] = 1
    return input_ids, token_type_ids, lengths


def to_batch(
    input_ids: NDArray[np.int64], token_type_ids: NDArray[np.int64], lengths: NDArray[np.int64], **labels: Any
) -> Batch:
    """Tensors of one batch; `attention_mask` is None when nothing is padded, `num_tokens` counts the real ones.

    `num_token_pairs` is what attention goes over, the squared lengths summed; `num_sequences` the number of rows.
    """
    width = input_ids.shape[1]
    padded = bool((lengths < width).any())
    attention_mask = torch.from_numpy(np.arange(width)[None, :] < lengths[:, None]) if padded else None
    return {
        "input_ids": torch.from_numpy(input_ids),
        "token_type_ids": torch.from_numpy(token_type_ids),
        "attention_mask": attention_mask,
        "num_tokens": int(lengths.sum()),
        "num_token_pairs": int((lengths**2).sum()),
        "num_sequences": len(lengths),
        **{name: torch.from_numpy(np.asarray(value)) for name, value in labels.items()},
    }


def to_packed_batch(
    input_ids: NDArray[np.int64], token_type_ids: NDArray[np.int64], lengths: NDArray[np.int64], **labels: Any
) -> Batch:
    """Padded rows (B, S) to one batch without padding: `input_ids` and `token_type_ids` (T,) and their `packing`."""
    real = np.arange(input_ids.shape[1])[None, :] < lengths[:, None]
    boundaries = torch.zeros(len(lengths) + 1, dtype=torch.int32)
    boundaries[1:] = torch.from_numpy(np.cumsum(lengths))
    return {
        "input_ids": torch.from_numpy(input_ids[real]),
        "token_type_ids": torch.from_numpy(token_type_ids[real]),
        "packing": Packing(boundaries, int(lengths.max(initial=0))),
        "num_tokens": int(lengths.sum()),
        "num_token_pairs": int((lengths**2).sum()),
        "num_sequences": len(lengths),
        **{name: torch.from_numpy(np.asarray(value)) for name, value in labels.items()},
    }


def fit_into_rows(lengths: NDArray[np.int64], num_rows: int, room: int) -> list[list[int]]:
    """Share sequences out over rows of `room` tokens each: which sequences each row holds.

    Longest first, each into the fullest row that still has room for it (best fit decreasing). Sequences that fit
    nowhere are left out.
    """
    rows: list[list[int]] = [[] for _ in range(num_rows)]
    # (free tokens, row), ascending.
    free = [(room, row) for row in range(num_rows)]
    for number in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[number])
        place = bisect_left(free, (length, -1))
        if place < len(free):
            left, row = free.pop(place)
            rows[row].append(number)
            insort(free, (left - length, row))
    return rows


def shuffled(seed: int, num_samples: int, numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Some samples of an endless training, by number: (epoch, index) each; every epoch has an order of its own."""
    epochs = numbers // num_samples
    indices = np.empty_like(numbers)
    for epoch in np.unique(epochs):
        at = epochs == epoch
        indices[at] = permute(derive_key(seed, int(epoch), "order"), num_samples, numbers[at] % num_samples)
    return epochs, indices


def length_bucketed(
    seed: int, lengths: NDArray[np.int64], batch_size: int, step: int, num_steps: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The samples of one training step out of `num_steps`, all of about one length: (epoch, index) each.

    The endless shuffled stream is cut into buckets of at most `BUCKET_BATCHES` batches or one epoch; a bucket is
    sorted by length, cut into batches, and these are drawn in random order. The last bucket ends with the
    training, so every sample is seen equally often, give or take once.
    """
    size = min(BUCKET_BATCHES, -(-len(lengths) // batch_size))
    bucket, place = divmod(step, size)
    size = min(size, num_steps - bucket * size) if bucket == num_steps // size else size
    start = (step - place) * batch_size
    epochs, indices = shuffled(seed, len(lengths), np.arange(start, start + size * batch_size))
    by_length = np.argsort(lengths[indices], kind="stable")
    order = permute(derive_key(seed, bucket, "buckets"), size, np.array([place]))[0]
    taken = by_length[order * batch_size : (order + 1) * batch_size]
    # Inside the batch in random order, so that the parts given to ranks and micro-batches are alike.
    taken = taken[permute(derive_key(seed, step, "places"), len(taken), np.arange(len(taken)))]
    return epochs[taken], indices[taken]
