"""The score of a label for a text in a pattern, as a function of the words of the text."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from bert_lightning.data.loading.batching import Batch
from bert_lightning.tasks.explained import NO_WORD, Explained, Part, Word, split_text
from bert_lightning.tasks.inference import evaluating

if TYPE_CHECKING:
    from bert_lightning.tasks.prompting.data import EncodedClozes
    from bert_lightning.tasks.prompting.task import ClozeTask


def explained_cloze(task: "ClozeTask", split: "EncodedClozes", label: int, predicted: str) -> Explained:
    """Return the score of label number `label` for the only text of a split.

    Only the words of the text count. Those of the pattern and of demonstrations always stay, as special tokens do. Of
    several draws of demonstrations, the first one is explained.
    """
    [example] = split.examples
    texts = [example.text, *([example.text_pair or ""] if task.settings.is_pair else [])]
    words: list[Word] = []
    owners = []
    for number, text in enumerate(texts):
        found = split_text(task.tokenizer, text, number, len(words))
        words += found.words
        owners.append(found.owners)
    batch = split.batch_of_draws(np.array([0]), 1)
    masks = batch.pop("masked_positions")
    places = np.full(batch["input_ids"].shape, NO_WORD, dtype=np.int64)
    for field, positions in zip(task.settings.cloze.fields, split.places_of_fields(0), strict=True):
        places[0, positions.start : positions.stop] = owners[field.second][: len(positions)]
    readout = np.zeros(places.shape)
    readout[0, masks] = 1 / len(masks)
    return Explained(
        example.location,
        task.labels[label],
        predicted,
        [Part(name, text) for name, text in zip(task.line_columns, texts, strict=True)],
        words,
        batch,
        places,
        readout,
        _Score(task, masks, label),
    )


class _Score:
    """The score of a label in each sequence."""

    def __init__(self, task: "ClozeTask", masks: Tensor, label: int) -> None:
        self._task, self._masks, self._label = task, masks, label
        # Computed before anything is added to the embeddings.
        with evaluating(task):
            prior = task.log_prior()
        self._prior = 0.0 if prior is None else float(prior[label])

    def __call__(self, batch: Batch) -> Tensor:
        """Return (k,) the scores of k copies."""
        copies, width = batch["input_ids"].shape
        starts = torch.arange(copies, device=batch["input_ids"].device) * width
        positions = (starts[:, None] + self._masks.to(starts.device)).flatten()
        scores = self._task.log_probabilities({**batch, "masked_positions": positions})
        return scores[:, self._label] - self._prior
