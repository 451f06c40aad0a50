"""The score of the tags of an entity, or of the tag of a word, as a function of the words of its sentence."""

import re
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bert_lightning.data.datasets.examples import TaggedSentence
from bert_lightning.data.loading.batching import Batch
from bert_lightning.errors import InputError
from bert_lightning.metrics.spans import spans_of
from bert_lightning.model.layers.crf import LinearChainCRF
from bert_lightning.tasks.explained import NO_WORD, Explained, Part, Word, number_of
from bert_lightning.tasks.token_classification.tag_schemes import convert
from bert_lightning.tasks.token_classification.windows import Window

if TYPE_CHECKING:
    from bert_lightning.tasks.token_classification.data import EncodedWords
    from bert_lightning.tasks.token_classification.task import TokenClassificationTask

_TARGET = re.compile(r"(?P<word>\d+)(=(?P<tag>.+))?$")
# The score of a tag that is excluded from a CRF. Its probability is then 0 in float32.
_EXCLUDED = -1e4


def explained_tags(task: "TokenClassificationTask", example: TaggedSentence, target: str | None) -> list[Explained]:
    """Return what is explained of a sentence.

    Without a target, these are the predicted entities, each as the sum of the scores of its words' tags. If there
    is none, or if tags mark no spans, it is the word whose tag is least certain.

    The score of a tag is its logit. With a CRF it is the logarithm of its odds among all sequences of tags.

    Args:
        task: the model with its labels.
        example: the sentence.
        target: a word by its number from 1, as in `3`, and possibly another tag than the predicted one: `3=B-LOC`.

    Raises:
        InputError: there is no such word or tag.
    """
    if not example.words:
        return []
    split = task.encode([example])
    outputs = task.outputs_for(split, 64)
    [ids] = task.tag_ids(split, outputs)
    tags = [task.labels[number] for number in ids]
    words = [f"{word} → {tag}" for word, tag in zip(example.words, tags, strict=True)]
    if target is not None:
        number, tag = _chosen(task, example, target, int_ids=ids.tolist())
        name = f"{example.words[number]} → {task.labels[tag]}"
        return [_explained(task, split, {number: tag}, name, words[number])]
    spans = spans_of(convert(tags, "IOB2")) if task.spans else []
    if spans:
        found = []
        for span in spans:
            name = f"{' '.join(example.words[span.start : span.end])} → {span.type}"
            chosen = {number: int(ids[number]) for number in range(span.start, span.end)}
            found.append(_explained(task, split, chosen, name, name))
        return found
    two = np.sort(np.concatenate(outputs), axis=1)[:, -2:]
    number = int(np.argmin(two[:, -1] - two[:, 0]))
    return [_explained(task, split, {number: int(ids[number])}, words[number], words[number])]


def _chosen(
    task: "TokenClassificationTask", example: TaggedSentence, target: str, int_ids: list[int]
) -> tuple[int, int]:
    """Return the number of the word from 0, and that of the tag."""
    match = _TARGET.match(target)
    if match is None:
        raise InputError(f"the target is {target!r}; a word by its number from 1 is expected, such as 3, or 3=B-LOC")
    number = int(match["word"])
    if not 1 <= number <= len(example.words):
        raise InputError(f"{example.location}: the target is {target!r}, but the words are 1 to {len(example.words)}")
    tag = int_ids[number - 1] if match["tag"] is None else number_of(match["tag"], task.labels, "tag")
    return number - 1, tag


def _explained(
    task: "TokenClassificationTask", split: "EncodedWords", chosen: dict[int, int], target: str, predicted: str
) -> Explained:
    """Return the summed scores of tags: number of the word -> number of the tag.

    Without a CRF, only the windows that predict these words are computed.
    """
    [example] = split.examples
    windows = list(range(len(split.windows)))
    if task.model.crf is None:
        windows = [number for number in windows if not chosen.keys().isdisjoint(split.windows[number].words)]
    batch = split.batch(np.array(windows))
    shape = batch["input_ids"].shape
    places, readout = np.full(shape, NO_WORD, dtype=np.int64), np.zeros(shape)
    ends = np.cumsum([number for window in split.windows for number in window.num_pieces])
    starts = np.concatenate([[0], ends[:-1]])
    kept: list[int] = []
    for row, window in enumerate(split.windows[number] for number in windows):
        _place(places[row], window, starts, ends)
        for word, position in zip(window.words, window.positions, strict=True):
            readout[row, position] = word in chosen
        kept += window.words
    columns = {kept.index(word): tag for word, tag in chosen.items()}
    crf, width = task.model.crf, len(windows)

    def score(batch: Batch) -> Tensor:
        emissions = task.compute(batch).unflatten(0, (-1, width))
        # (k, words, L): the words of all windows side by side.
        joined = emissions[:, batch["word_mask"].unflatten(0, (-1, width))[0]]
        if crf is None:
            return joined[:, list(columns), list(columns.values())].sum(1)
        return torch.stack([_log_odds(crf, joined, word, tag) for word, tag in columns.items()]).sum(0)

    positions = [0, *accumulate(len(word) + 1 for word in example.words)]
    return Explained(
        example.location,
        target,
        predicted,
        [Part("tokens", " ".join(example.words))],
        [Word(word, 0, at, at + len(word)) for word, at in zip(example.words, positions, strict=False)],
        batch,
        places,
        readout / readout.sum(),
        score,
    )


def _place(row: NDArray[np.int64], window: Window, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> None:
    """Write the numbers of the words of a window to their positions, also of those that another window predicts.

    Args:
        row: (S,) the positions of the window.
        window: holds whole words.
        starts: (words,) the first piece of each word in the sentence.
        ends: (words,) the first piece after each word.
    """
    shift = window.positions[0] - int(starts[window.words.start])
    for word in np.flatnonzero((starts + shift >= 1) & (ends + shift <= len(window.pieces) + 1)).tolist():
        row[starts[word] + shift : ends[word] + shift] = word


def _log_odds(crf: LinearChainCRF, emissions: Tensor, word: int, tag: int) -> Tensor:
    """Return (k,) the logarithm of the odds that a word has a tag, over all sequences of tags.

    The probability itself would have no gradient where the model is sure.
    """
    mask = torch.ones(emissions.shape[:2], dtype=torch.bool, device=emissions.device)
    is_tag = torch.zeros(emissions.shape[1:], dtype=torch.bool, device=emissions.device)
    is_other = is_tag.clone()
    is_other[word] = True
    is_tag[word, tag], is_other[word, tag] = True, False
    with_tag, without_tag = (emissions.masked_fill(excluded, _EXCLUDED) for excluded in (is_other, is_tag))
    return crf.log_partition(with_tag, mask) - crf.log_partition(without_tag, mask)
