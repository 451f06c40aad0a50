"""Probing: what a linear classifier can read from each layer of an encoder, beside what it can memorise.

Accuracy alone says little, because a probe can learn a task from any vectors that tell words apart. So each layer
has a control task, whose labels are drawn at random for each word or text (Hewitt and Liang 2019, Designing and
Interpreting Probes with Control Tasks, arXiv 1909.03368). The majority label, encoders with random weights and the
embeddings, which are layer 0, are baselines.
"""

import hashlib
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from bert_lightning.checks import RefusedValue
from bert_lightning.config.layers import Overrides, Source
from bert_lightning.interpretability.features import FeatureExtractor
from bert_lightning.interpretability.labelled_items import PROBED_TASKS, Item, ProbingData, read_probing_data
from bert_lightning.interpretability.linear_probe import L2, fit_linear_probe
from bert_lightning.interpretability.pooled_states import Pooling, require_pooling
from bert_lightning.interpretability.text_vectors import refuse_single_text
from bert_lightning.metrics.classification import classification_report, confusion_matrix
from bert_lightning.runs.inference_device import InferencePrecision

log = logging.getLogger(__name__)

SEEDS = (1, 2, 3)
MAX_ITEMS = 10_000
# The 97.5 % quantile of the normal distribution.
_QUANTILE = 1.959964
Progress = Callable[[Iterable[str]], Iterator[str]]


@dataclass(frozen=True)
class Interval:
    """A mean over items, and its 95 % interval for new texts."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class LayerScores:
    """The results of one layer. They are computed on validation items, except `memorised`.

    Attributes:
        layer: 0 for the embeddings, 1 for the first block.
        accuracy: of the probe.
        macro_f1: mean over labels of the probe's F1.
        control: accuracy on the control task, for each seed.
        selectivity: accuracy minus the mean accuracy on the control tasks.
        memorised: mean accuracy on the control tasks' training items: how much the probe can learn by heart.
        random_encoder: accuracy on an encoder with random weights, for each seed.
        converged: whether all fits of the layer reached their minimum.
    """

    layer: int
    accuracy: Interval
    macro_f1: float
    control: Sequence[float]
    selectivity: Interval
    memorised: float
    random_encoder: Sequence[float]
    converged: bool


@dataclass(frozen=True)
class ProbingReport:
    """The scores of all layers, and what they were computed from.

    Attributes:
        checkpoint: the model.
        task: the task whose labels were probed.
        item: `word` or `text`.
        pooling: how word pieces became one vector.
        labels: those that were probed, in id order.
        num_items: number of items of training and of validation.
        num_texts: number of texts of training and of validation.
        l2: the penalty of the probe.
        seeds: of the control tasks and the random encoders.
        majority_label: the most frequent label of training.
        majority: its accuracy.
        majority_macro_f1: its macro F1.
        layers: the scores, from the embeddings to the last block.
    """

    checkpoint: str
    task: str
    item: Item
    pooling: Pooling
    labels: Sequence[str]
    num_items: tuple[int, int]
    num_texts: tuple[int, int]
    l2: float
    seeds: Sequence[int]
    majority_label: str
    majority: float
    majority_macro_f1: float
    layers: Sequence[LayerScores]

    def to_dict(self) -> dict[str, object]:
        """Return plain values, as the command writes them as JSON."""
        return asdict(self)


def probe(
    checkpoint: str | Path,
    experiment: Source | Sequence[Source] = (),
    overrides: Overrides = (),
    *,
    pooling: Pooling = "mean",
    l2: float = L2,
    seeds: Sequence[int] = SEEDS,
    max_items: int = MAX_ITEMS,
    leave_out: Sequence[str] = (),
    device: str | None = None,
    precision: InferencePrecision = "32",
    base: str | Path | None = None,
    allow_modules: Sequence[str] = (),
    progress: Progress = iter,
) -> ProbingReport:
    """Probe every layer of a model for the labels of words or texts.

    Args:
        checkpoint: any checkpoint with a vocabulary; if it is a run and no data are named, its own data are used.
        experiment: files or values that have `task` and `data`, as for training.
        overrides: keys on top, such as `{"data.dataset": "wnut17"}`, which also sets the task.
        pooling: `mean` over the pieces of a word or text, or the `first` piece, which is [CLS] for a text.
        l2: penalty of the probe (`fit_linear_probe`).
        seeds: of control tasks and random encoders, one of each per seed; the first one draws the items.
        max_items: words or texts of each split that are used; whole texts are drawn until there are that many.
        leave_out: labels whose items are left out, such as `O`, the tag of most words in entity recognition.
        device: where hidden states are computed; by default CUDA if it is available.
        precision: as for `load`.
        base: the base of a checkpoint that holds only what was trained, if it has moved.
        allow_modules: your modules that may be imported.
        progress: wraps the names of what is computed, to show the progress.

    Raises:
        InputError: the task has no label per word or text, or the data cannot be read.
        RefusedValue: a setting is not allowed, or fewer than 2 labels are left.

    Example:
        ::

            report = probe("bert-base-uncased", overrides={"data.dataset": "wnut17", "data.folder": "wnut17"})
            [layer.selectivity.value for layer in report.layers]
    """
    _check(pooling, l2, seeds, max_items)
    refuse_single_text("leave_out", leave_out)
    extractor = FeatureExtractor.open(checkpoint, device, precision=precision, base=base, allow_modules=allow_modules)
    data = read_probing_data(
        checkpoint, extractor, experiment, overrides, max_items, leave_out, seeds[0], allow_modules
    )
    scores = _scores(extractor, data, pooling, l2, seeds, progress)
    majority = int(np.bincount(data.train.labels[data.train.labels >= 0]).argmax())
    predicted = np.full(len(data.validation.labels), majority)
    return ProbingReport(
        str(checkpoint),
        data.task,
        PROBED_TASKS[data.task],
        pooling,
        [label for label in data.labels if label not in leave_out],
        (len(data.train.labels), len(data.validation.labels)),
        (len({*data.train.texts.tolist()}), len({*data.validation.texts.tolist()})),
        l2,
        list(seeds),
        data.labels[majority],
        float((predicted == data.validation.labels).mean()),
        _macro_f1(data.validation.labels, predicted, len(data.labels)),
        scores,
    )


def _check(pooling: str, l2: float, seeds: Sequence[int], max_items: int) -> None:
    """Check the settings of a probe.

    Raises:
        InputError: there is no such pooling.
        RefusedValue: a number is not allowed.
    """
    require_pooling(pooling)
    if not 0 < l2 < math.inf:
        raise RefusedValue("l2", l2, "be more than 0")
    if max_items < 1:
        raise RefusedValue("max_items", max_items, "be at least 1")
    if not seeds or len({*seeds}) < len(seeds):
        raise RefusedValue("seeds", [*seeds], "name at least one seed, each once")
    if min(seeds) < 0:
        raise RefusedValue("seeds", [*seeds], "hold numbers from 0")


def _scores(
    extractor: FeatureExtractor,
    data: ProbingData,
    pooling: Pooling,
    l2: float,
    seeds: Sequence[int],
    progress: Progress,
) -> list[LayerScores]:
    """Return the scores of every layer. The vectors of one encoder at a time are in memory."""
    train, validation = data.train, data.validation
    controls = [control_labels(train.labels, [train.types, validation.types], seed) for seed in seeds]
    numbers = range(extractor.num_layers)
    random: list[list[float]] = [[] for _ in numbers]
    converged = [True for _ in numbers]
    steps = progress(f"encoder {name}, layer {n}" for name in ("trained", *seeds) for n in numbers)
    own: list[tuple[_Fit, list[_Fit]]] = []
    vectors = _vectors(extractor, data, pooling)
    for layer in numbers:
        next(steps)
        fit = _fitted(vectors, layer, (train.labels, validation.labels), l2)
        own.append((fit, [_fitted(vectors, layer, labels, l2) for labels in controls]))
    for seed in seeds:
        vectors = _vectors(extractor.with_random_weights(seed), data, pooling)
        for layer in numbers:
            next(steps)
            fit = _fitted(vectors, layer, (train.labels, validation.labels), l2)
            random[layer].append(float(fit.correct.mean()))
            converged[layer] &= fit.converged
    next(steps, None)
    found = []
    for layer, (fit, control) in enumerate(own):
        of_controls = np.mean([each.correct for each in control], axis=0)
        found.append(
            LayerScores(
                layer,
                mean_interval(fit.correct.astype(np.float64), validation.texts),
                _macro_f1(validation.labels, fit.predicted, len(data.labels)),
                [float(each.correct.mean()) for each in control],
                mean_interval(fit.correct - of_controls, validation.texts, least=-1.0),
                float(np.mean([each.training_accuracy for each in control])),
                random[layer],
                converged[layer] and all(each.converged for each in (fit, *control)),
            )
        )
    for scores in found:
        if not scores.converged:
            log.warning("a probe of layer %d did not reach its minimum: a larger l2 than %g helps", scores.layer, l2)
    return found


@dataclass(frozen=True)
class _Fit:
    """A probe on one layer."""

    predicted: NDArray[np.int64]
    """(N,) of the validation items"""
    correct: NDArray[np.bool_]
    """(N,) of the validation items"""
    training_accuracy: float
    converged: bool


def _vectors(extractor: FeatureExtractor, data: ProbingData, pooling: Pooling) -> tuple[Tensor, Tensor]:
    return data.train.vectors(extractor, pooling), data.validation.vectors(extractor, pooling)


def _fitted(
    vectors: tuple[Tensor, Tensor], layer: int, labels: tuple[NDArray[np.int64], NDArray[np.int64]], l2: float
) -> _Fit:
    train, validation = (each[layer] for each in vectors)
    fitted = fit_linear_probe(train, labels[0], l2)
    predicted = fitted.predict(validation)
    learned = float((fitted.predict(train) == labels[0]).mean())
    return _Fit(predicted, predicted == labels[1], learned, fitted.converged)


def control_labels(
    labels: NDArray[np.int64], types: Sequence[Sequence[str]], seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the labels of a control task for training and validation.

    Every word type, or every text, has one label in both. It is drawn from the distribution of the labels in training
    (Hewitt and Liang 2019, section 2). The draw is a hash of seed and type, so it does not depend on other types,
    their order, or the model.

    Args:
        labels: (N,) label ids of the training items.
        types: what each item of training and of validation is.
        seed: of the draw.

    >>> control_labels(np.array([0, 0, 1, 1]), [["a", "b", "a", "c"], ["c"]], seed=1)
    (array([1, 1, 1, 0]), array([0]))
    """
    known = labels[labels >= 0]
    ends = np.bincount(known).cumsum() / len(known)

    def label(kind: str) -> int:
        digest = hashlib.blake2b(f"{seed}\0{kind}".encode("utf-8", "surrogatepass"), digest_size=6).digest()
        # 48 bits are exact in a float, and less than 1.
        return int(np.searchsorted(ends, int.from_bytes(digest) / 2**48, side="right"))

    train, validation = (
        np.array([drawn[kind] for kind in split], dtype=np.int64)
        for split in types
        for drawn in [{kind: label(kind) for kind in {*split}}]
    )
    return train, validation


def mean_interval(values: NDArray[np.float64], texts: NDArray[np.int64], least: float = 0.0) -> Interval:
    """Return the mean over items with its 95 % interval for new texts, clipped to what a mean can be.

    Words of one text are alike, so a text is drawn as a whole. The mean is then a ratio of sums over texts, whose
    variance is that of its linear form (Cochran 1977, Sampling Techniques, section 2.11): m / (m - 1) times the sum
    of squares of `sum_i - mean * n_i` over the m texts, divided by the squared number of items. For few texts, this
    symmetric interval may leave the range of a mean, so it ends there.

    Args:
        values: (N,) between `least` and 1.
        texts: (N,) the text of each.
        least: the smallest possible value.

    >>> interval = mean_interval(np.array([1.0, 0, 1, 1]), np.array([0, 1, 2, 3]))
    >>> round(interval.value, 2), round(interval.low, 2), interval.high
    (0.75, 0.26, 1.0)
    """
    _, owners = np.unique(texts, return_inverse=True)
    num_items, sums = np.bincount(owners), np.bincount(owners, weights=values)
    value, num_texts = float(values.mean()), len(num_items)
    if num_texts < 2:
        return Interval(value, float("nan"), float("nan"))
    squares = float(np.square(sums - value * num_items).sum())
    half = _QUANTILE * (num_texts / (num_texts - 1) * squares) ** 0.5 / len(values)
    return Interval(value, max(least, value - half), min(1.0, value + half))


def _macro_f1(gold: NDArray[np.int64], predicted: NDArray[np.int64], num_labels: int) -> float:
    """Return the mean F1 over labels. A gold label that training lacks is one label more, which nothing predicts."""
    known = np.where(gold < 0, num_labels, gold)
    counts = confusion_matrix(known, predicted, num_labels + 1)
    return classification_report(counts, [*map(str, range(num_labels + 1))]).macro.f1
