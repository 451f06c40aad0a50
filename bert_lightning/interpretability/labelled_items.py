"""Words or texts with one label each, as a task reads them, and their vectors at every layer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from bert_lightning.checks import RefusedValue, nearest
from bert_lightning.config.experiment import load_experiment
from bert_lightning.config.layers import Overrides, Source, override_layer
from bert_lightning.data.datasets.catalogue import STANDARD_SETS, standard_set
from bert_lightning.errors import InputError
from bert_lightning.interpretability.features import FeatureExtractor
from bert_lightning.interpretability.pooled_states import Pooling, Stretch, pooled_states
from bert_lightning.model.losses import IGNORED
from bert_lightning.runs.scoring import run_directory_of
from bert_lightning.tasks.catalogue import TASKS
from bert_lightning.tasks.fine_tuning.splits import EncodedSplit
from bert_lightning.tasks.fine_tuning.texts import TextSplit
from bert_lightning.tasks.inference import PREDICTION_BATCH_SIZE as BATCH_SIZE
from bert_lightning.tasks.text_classification.data import TextClassificationDataModule
from bert_lightning.tasks.text_classification.few_shot import with_seed_of_split
from bert_lightning.tasks.token_classification.data import EncodedWords, TokenClassificationDataModule

Item = Literal["word", "text"]
PROBED_TASKS: dict[str, Item] = {"text-classification": "text", "token-classification": "word"}
"""The tasks that have one label per item -> the name of an item."""
# The keys of an experiment that a probe reads.
_READ = ("task", "data", "modules", "seed_everything")


@dataclass(frozen=True)
class LabelledItems:
    """Items of one split.

    Attributes:
        split: the texts and their sequences.
        places: the sequence of each item, and the position and number of its word pieces there.
        labels: (N,) label ids; -1 for a label that training lacks.
        texts: (N,) the number of the text that each item belongs to.
        types: (N,) what each item is: the word, or the whole text, in lower case if the model reads it so.
    """

    split: EncodedSplit[Any]
    places: Sequence[Stretch]
    labels: NDArray[np.int64]
    texts: NDArray[np.int64]
    types: Sequence[str]

    def vectors(self, extractor: FeatureExtractor, pooling: Pooling) -> Tensor:
        """Return the vectors of all items at every layer, (layers, N, H)."""
        items_of: dict[int, list[int]] = {}
        for item, place in enumerate(self.places):
            items_of.setdefault(place.row, []).append(item)
        # Sequences of about the same length are computed together.
        order = [number for number in self.split.by_length.tolist() if number in items_of]
        vectors: Tensor | None = None
        with extractor.computing():
            for start in range(0, len(order), BATCH_SIZE):
                numbers = order[start : start + BATCH_SIZE]
                states = extractor.hidden_states(self.split.batch(np.array(numbers)))
                items = [(row, item) for row, number in enumerate(numbers) for item in items_of[number]]
                if vectors is None:
                    vectors = states.new_empty(len(states), len(self.labels), states.shape[3])
                stretches = [self.places[item]._replace(row=row) for row, item in items]
                vectors[:, [item for _, item in items]] = pooled_states(states, stretches, pooling)
        assert vectors is not None, "splits without items are refused"
        return vectors

    def known_labels(self) -> list[int]:
        """Return the ids of the labels that occur, in order."""
        known: list[int] = np.unique(self.labels[self.labels >= 0]).tolist()
        return known

    def only(self, kept: NDArray[np.bool_]) -> "LabelledItems":
        """Return some of the items, (N,) as a mask."""
        numbers = np.flatnonzero(kept).tolist()
        return LabelledItems(
            self.split,
            [self.places[n] for n in numbers],
            self.labels[kept],
            self.texts[kept],
            [self.types[n] for n in numbers],
        )


class ProbingData(NamedTuple):
    """The data of a probe."""

    task: str
    labels: Sequence[str]
    train: LabelledItems
    validation: LabelledItems


def read_probing_data(
    checkpoint: str | Path,
    extractor: FeatureExtractor,
    experiment: Source | Sequence[Source],
    overrides: Overrides,
    max_items: int,
    leave_out: Sequence[str],
    seed: int,
    allow_modules: Sequence[str] = (),
) -> ProbingData:
    """Read the training and validation split of an experiment, or of a checkpoint's own run.

    Args:
        checkpoint: the model; if it lies in a run directory, that run's data are the default.
        extractor: has its tokenizer.
        experiment: files or values that have `task` and `data`; other sections do not count.
        overrides: keys on top.
        max_items: in each split, texts are drawn until they have this many items.
        leave_out: labels whose items are left out.
        seed: of the drawing.
        allow_modules: modules that may register a data set.

    Raises:
        InputError: the task has no label per word or text, or the data cannot be read.
        RefusedValue: `leave_out` names no label, or fewer than 2 labels are left.
    """
    task, settings = _settings(checkpoint, experiment, overrides, allow_modules)
    if settings.max_seq_length > extractor.encoder.config.max_position_embeddings:
        raise InputError(
            f"data.max_seq_length {settings.max_seq_length} is more than the model's positions "
            f"({extractor.encoder.config.max_position_embeddings})"
        )
    tokenizer = extractor.tokenizer
    module: TextClassificationDataModule | TokenClassificationDataModule
    if task == "text-classification":
        if settings.kind != "single-label":
            raise InputError(f"data.problem is {settings.kind}; a probe predicts one label per text (single-label)")
        module = TextClassificationDataModule(settings, tokenizer)
    else:
        module = TokenClassificationDataModule(settings, tokenizer)
    if "validation" not in module.splits:
        raise InputError("data.validation is not set: a probe is scored on examples that it was not fitted to")
    left_out = _ids(leave_out, module.labels)
    lowercase = tokenizer.vocabulary.lowercase is not False

    def items(name: str) -> LabelledItems:
        found = _items(module.splits[name], lowercase)
        found = found.only(~np.isin(found.labels, left_out))
        if not found.known_labels():
            if leave_out:
                raise RefusedValue("leave_out", " ".join(leave_out), f"leave a {PROBED_TASKS[task]} of data.{name}")
            raise InputError(f"data.{name} has no {PROBED_TASKS[task]} with a label of data.train")
        return found

    train, validation = items("train"), items("validation")
    if len(train.known_labels()) < 2:
        only = f"'{module.labels[train.known_labels()[0]]}'"
        if leave_out:
            raise RefusedValue("leave_out", " ".join(leave_out), f"leave 2 labels of data.train, not only {only}")
        raise InputError(f"data.train has only the label {only}; a probe needs at least 2")
    train, validation = (_drawn(each, max_items, seed) for each in (train, validation))
    if len(train.known_labels()) < 2:
        raise RefusedValue("max_items", max_items, "be larger: the texts that are drawn for it have one label only")
    return ProbingData(task, module.labels, train, validation)


def _ids(names: Sequence[str], labels: Sequence[str]) -> list[int]:
    """Return the ids of labels.

    Raises:
        RefusedValue: there is no such label.
    """
    for name in names:
        if name not in labels:
            raise RefusedValue("leave_out", name, f"name labels of data.train{nearest(name, labels)}")
    return [labels.index(name) for name in names]


def _settings(
    checkpoint: str | Path, experiment: Source | Sequence[Source], overrides: Overrides, allow_modules: Sequence[str]
) -> tuple[str, Any]:
    """Return the task and its data settings.

    Raises:
        InputError: they are incomplete or wrong, another key is set on the command line, or the task is not probed.
    """
    _, given = override_layer(overrides)
    for key in given:
        if key not in _READ:
            raise InputError(f"probe reads the keys {', '.join(_READ)}, and {key!r} would do nothing")
    files = [experiment] if isinstance(experiment, str | Path | Mapping) else [*experiment]
    below: dict[str, Any] = {"experiment": "probe", "model": {"size": "tiny"}, "trainer": {"max_steps": 1}}
    data = given.get("data")
    name = data.get("dataset") if isinstance(data, dict) else None
    if name is not None and not files and not {"task", "modules"} & {*given}:
        # The name alone decides the task, so a wrong one is the mistake.
        standard_set(str(name))
    named = STANDARD_SETS.get(str(name))
    directory = None if files or named or "task" in given else run_directory_of(Path(checkpoint))
    if directory is not None:
        saved = directory.read_config()
        below |= {key: saved[key] for key in _READ if key in saved}
    elif named is not None and not files:
        below["task"] = named.task
    elif not files and not given:
        raise InputError(
            f"{checkpoint} is not part of a run directory: name the data, such as --data.dataset conll2003-ner"
        )
    read = load_experiment(files, overrides, below, allow_modules, only=_READ)
    if read.task not in PROBED_TASKS:
        known = " and ".join(name for name in TASKS if name in PROBED_TASKS)
        raise InputError(f"task is {read.task}; a probe needs one label per text or word, which {known} have")
    # The checkpoint's tokenizer reads the data, and a word has one label, also for a run that trained on all pieces.
    data = replace(with_seed_of_split(read.data, read.seed_everything), tokenizer=None)
    return read.task, replace(data, label_all_pieces=False) if hasattr(data, "label_all_pieces") else data


def _drawn(items: LabelledItems, max_items: int, seed: int) -> LabelledItems:
    """Return the items of texts that are drawn until they have `max_items` items."""
    if len(items.labels) <= max_items:
        return items
    texts, num_items = np.unique(items.texts, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(texts))
    num_texts = int(np.searchsorted(num_items[order].cumsum(), max_items)) + 1
    return items.only(np.isin(items.texts, texts[order[:num_texts]]))


def _items(split: EncodedSplit[Any], lowercase: bool) -> LabelledItems:
    """Return the items of a split, in the order of its sequences."""
    if isinstance(split, EncodedWords):
        places, words, labels = [], [], []
        for row, window in enumerate(split.windows):
            labels.append(split.batch(np.array([row]))["labels"][0].numpy())
            places += [Stretch(row, *place) for place in zip(window.positions, window.num_pieces, strict=True)]
            words += [split.examples[window.sentence].words[word] for word in window.words]
        ids = np.concatenate(labels)
        ids = np.where(ids == IGNORED, -1, ids)
        texts = np.repeat([window.sentence for window in split.windows], [len(each) for each in labels])
    else:
        assert isinstance(split, TextSplit)
        assert split.labels is not None
        num_special = 2 if split.seconds is None else 3
        places = [Stretch(row, 0, int(length) + num_special) for row, length in enumerate(split.lengths)]
        ids, texts = split.labels, np.arange(len(split.examples))
        words = ["\t".join([each.text, *([each.text_pair] if each.text_pair else [])]) for each in split.examples]
    types = [word.lower() for word in words] if lowercase else words
    return LabelledItems(split, places, ids.astype(np.int64), texts.astype(np.int64), types)
