"""The score of a word piece in the place of a mask, as a function of the words of the text."""

import re
from typing import TYPE_CHECKING

import numpy as np
import torch
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor

from bert_lightning.data.loading.batching import Batch
from bert_lightning.data.loading.encoding import text_batch
from bert_lightning.errors import InputError
from bert_lightning.tasks.explained import Explained, Part, number_of, places_of, split_text
from bert_lightning.tasks.inference import evaluating

if TYPE_CHECKING:
    from bert_lightning.tasks.pretraining.task import PretrainingTask

_TARGET = re.compile(r"(?P<mask>\d+)=(?P<entry>.+)$")


def explained_masks(
    task: "PretrainingTask", location: str, text: str, sequence: list[int], target: str | None
) -> list[Explained]:
    """Return the score of an entry of the vocabulary for each [MASK] of a text.

    Args:
        task: the model.
        location: the text, as an error names it.
        text: the text.
        sequence: its pieces.
        target: the entry for all masks, or for one by its number from 1, as in `2=cat`; None for the likeliest ones.

    Raises:
        InputError: there is no such mask, or the vocabulary has no such entry.
    """
    batch = text_batch(task.tokenizer, [sequence], None, task.max_seq_length)
    width = batch["input_ids"].shape[1]
    positions = (batch["input_ids"][0] == task.tokenizer.mask_id).nonzero().flatten()
    moved = move_data_to_device(batch, task.device)
    with evaluating(task):
        logits = _scores(task, moved, positions.to(task.device)).cpu()
    entry_ids = torch.tensor(task.tokenizer.entry_ids)
    likeliest = entry_ids[logits[:, entry_ids].argmax(-1)].tolist()
    numbers, entry = range(len(positions)), target
    match = _TARGET.match(target) if target is not None and target not in task.tokenizer.entries else None
    if match is not None:
        number, entry = int(match["mask"]), match["entry"]
        if not 1 <= number <= len(positions):
            raise InputError(f"{location}: the target is {target!r}, but the masks are 1 to {len(positions)}")
        numbers = range(number - 1, number)
    found = split_text(task.tokenizer, text)
    places = places_of([found.owners[: len(sequence)]], width)[None]
    explained = []
    for number in numbers:
        piece = likeliest[number] if entry is None else number_of(entry, task.tokenizer.entries, "entry")
        readout = np.zeros(places.shape)
        readout[0, positions[number]] = 1
        mask = f"mask {number + 1} → " if len(positions) > 1 else ""
        shown, predicted = (f"{mask}{task.tokenizer.entries[each]}" for each in (piece, likeliest[number]))
        score = _Score(task, int(positions[number]), piece)
        explained.append(
            Explained(location, shown, predicted, [Part("text", text)], found.words, batch, places, readout, score)
        )
    return explained


class _Score:
    """The score of an entry at a position of each sequence."""

    def __init__(self, task: "PretrainingTask", position: int, piece: int) -> None:
        self._task, self._position, self._piece = task, position, piece

    def __call__(self, batch: Batch) -> Tensor:
        """Return (k,) the scores of k copies."""
        copies, width = batch["input_ids"].shape
        positions = torch.arange(copies, device=batch["input_ids"].device) * width + self._position
        return _scores(self._task, batch, positions)[:, self._piece]


def _scores(task: "PretrainingTask", batch: Batch, positions: Tensor) -> Tensor:
    """Return the scores (M, V) of the vocabulary at positions (M,) of the flattened batch."""
    scores, _ = task.compute({**batch, "masked_positions": positions})
    return scores
