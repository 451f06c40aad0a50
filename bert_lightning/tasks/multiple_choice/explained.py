"""The score of one choice, as a function of its words and those of the question."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from bert_lightning.data.datasets.examples import ChoiceQuestion
from bert_lightning.data.loading.batching import Batch
from bert_lightning.tasks.explained import Explained, Part, Word, number_of, places_of, readout_of, split_text

if TYPE_CHECKING:
    from bert_lightning.tasks.multiple_choice.task import MultipleChoiceTask


def explained_choice(task: "MultipleChoiceTask", example: ChoiceQuestion, target: str | None) -> Explained:
    """Return the score of a choice. The words of the other choices do not change it.

    Args:
        task: the model.
        example: the question.
        target: the number of the choice, from 0, or its text; None for the likeliest one.

    Raises:
        InputError: there is no such choice.
    """
    split = task.encode([example])
    [scores] = task.outputs_for(split, 1)
    names = [*map(str, range(len(example.choices)))]
    predicted = int(np.argmax(scores))
    number = predicted
    if target is not None:
        number = example.choices.index(target) if target in example.choices else number_of(target, names, "choice")
    texts = [example.context, f"{example.question} {example.choices[number]}".strip()]
    words: list[Word] = []
    owners = []
    for part, (text, pieces) in enumerate(zip(texts, (split.contexts[number], split.choices[number]), strict=True)):
        found = split_text(task.tokenizer, text, part, len(words))
        words += found.words
        owners.append(found.owners[: len(pieces)])
    batch = split.batch(np.array([0]))
    batch["choice_mask"] = torch.ones(1, 1, dtype=torch.bool)
    batch = _changed(batch, lambda values: values[:, number])

    def score(batch: Batch) -> Tensor:
        return task.compute(_changed(batch, lambda values: values[:, None]))[:, 0]

    return Explained(
        example.location,
        f"{number}: {example.choices[number]}",
        f"{predicted}: {example.choices[predicted]}",
        [Part("context", texts[0]), Part("question and choice" if example.question else "choice", texts[1])],
        words,
        batch,
        places_of(owners, batch["input_ids"].shape[1])[None],
        readout_of(task.model, batch),
        score,
    )


def _changed(batch: Batch, change: Callable[[Tensor], Tensor]) -> Batch:
    """Return a batch whose inputs are changed, so that they have a dimension for choices or lack it."""
    mask = batch["attention_mask"]
    return {
        **batch,
        "input_ids": change(batch["input_ids"]),
        "token_type_ids": change(batch["token_type_ids"]),
        "attention_mask": None if mask is None else change(mask),
    }
