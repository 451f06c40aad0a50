"""The score of a relation, as a function of the words of a text with two marked entities."""

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from bert_lightning.data.datasets.examples import RelationExample
from bert_lightning.data.loading.batching import Batch
from bert_lightning.tasks.explained import NO_WORD, Explained, Part, Word, number_of, readout_of, split_text
from bert_lightning.tasks.relation_classification.data import MARKERS, cut_segments, marker_places

if TYPE_CHECKING:
    from bert_lightning.tasks.relation_classification.task import RelationClassificationTask


def explained_relation(task: "RelationClassificationTask", example: RelationExample, target: str | None) -> Explained:
    """Return the logit of a relation. The head reads the states of the two start markers, which are no words.

    Raises:
        InputError: there is no such relation.
    """
    split = task.encode([example])
    [logits] = task.outputs_for(split, 1)
    predicted = task.labels[int(np.argmax(logits))]
    number = number_of(predicted if target is None else target, task.labels, "relation")
    batch = split.batch(np.array([0]))
    words: list[Word] = []
    segments: list[list[int]] = []
    cuts = [0, *(character for character, _ in marker_places(example)), len(example.text)]
    for start, end in pairwise(cuts):
        found = split_text(task.tokenizer, example.text[start:end], 0, len(words), start)
        words += found.words
        segments.append(found.owners)
    places = np.full(tuple(batch["input_ids"].shape), NO_WORD, dtype=np.int64)
    first, *others = cut_segments(segments, task.settings.max_seq_length - 2 - len(MARKERS))
    # A marker is in front of each segment except the first.
    joined = [NO_WORD, *first, *(owner for segment in others for owner in (NO_WORD, *segment))]
    places[0, : len(joined)] = joined
    if task.model.own_head is None:
        readout = np.zeros(places.shape)
        readout[0, split.positions[0]] = 0.5
    else:
        readout = readout_of(task.model, batch)

    def score(batch: Batch) -> Tensor:
        return task.compute(batch)[:, number]

    return Explained(
        example.location,
        task.labels[number],
        predicted,
        [Part(task.line_columns[0], example.text)],
        words,
        batch,
        places,
        readout,
        score,
    )
