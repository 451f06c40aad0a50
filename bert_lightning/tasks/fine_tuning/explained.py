"""One score of a text or a pair of texts, as a function of its words."""

from typing import TYPE_CHECKING, TypeVar

import numpy as np
from torch import Tensor

from bert_lightning.data.loading.batching import Batch
from bert_lightning.tasks.explained import Explained, Part, Word, places_of, readout_of, split_text

if TYPE_CHECKING:
    from bert_lightning.tasks.fine_tuning.task import FineTuningTask, Logits
    from bert_lightning.tasks.fine_tuning.texts import TextSplit

Texts = TypeVar("Texts", bound="TextSplit")


def explained_text(
    task: "FineTuningTask[Texts, Logits, Tensor]", split: Texts, output: int, target: str, predicted: str
) -> Explained:
    """Return score number `output` of the only text or pair of a split."""
    [example] = split.examples
    texts, kept = [example.text], [split.firsts[0]]
    second = split.seconds[0] if split.seconds is not None else None
    if second is not None:
        texts.append(example.text_pair or "")
        kept.append(second)
    words: list[Word] = []
    owners = []
    for number, (text, pieces) in enumerate(zip(texts, kept, strict=True)):
        found = split_text(task.tokenizer, text, number, len(words))
        words += found.words
        owners.append(found.owners[: len(pieces)])
    batch = split.batch(np.array([0]))

    def score(batch: Batch) -> Tensor:
        return task.compute(batch)[:, output]

    return Explained(
        example.location,
        target,
        predicted,
        [Part(name, text) for name, text in zip(task.line_columns, texts, strict=False)],
        words,
        batch,
        places_of(owners, batch["input_ids"].shape[1])[None],
        readout_of(task.model, batch),
        score,
    )
