"""Comparison of two fixed models, one run each, on the same examples."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from bert_lightning.errors import InputError
from bert_lightning.studies.statistics.resampling import Sample, Score, sample_of
from bert_lightning.studies.statistics.results import Difference, Estimate
from bert_lightning.studies.statistics.scores import MEAN, OfMeans, Rows, as_rows
from bert_lightning.studies.statistics.values import ROUNDING, require_level, scipy_stats

FIXED_MODELS = "Two fixed models were compared: this says nothing about the procedures that trained them."
_FIXED_MODEL = "The interval is over examples: it says nothing about other seeds."
_FEW = 20


def compare_models(
    ours: ArrayLike,
    baseline: ArrayLike,
    score: Score = MEAN,
    *,
    groups: Sequence[object] | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> Difference:
    """Compare two fixed models on the same examples by the test that suits what was recorded.

    Right and wrong answers are compared by McNemar's exact test. For everything else, such as F1, or with `groups`,
    the p-value is that of approximate randomisation, and the interval that of the BCa bootstrap. They use 10,000
    resamples, or 2,000 if the score is not an `OfMeans`.

    Args:
        ours: one row per example, (examples,) or (examples, columns): 1 for a right and 0 for a wrong answer; one
            number, such as the F1 of a question; or counts from which `score` computes the metric (`item_counts`).
        baseline: the same for the other model, in the same order.
        score: function from rows (examples, columns) to the metric. An `OfMeans`, such as `F1`, is resampled fast.
        groups: the document of each example, if examples of one document depend on each other.
        level: confidence level of the interval.
        seed: seed of the resampling's own generator.

    Raises:
        InputError: the models have different examples, or values are missing.

    >>> compare_models([1, 1, 1, 0, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0, 1, 0, 1]).test
    "McNemar's exact test"
    """
    rows = as_rows(ours, "ours"), as_rows(baseline, "the baseline")
    binary = all(each.shape[1] == 1 and np.isin(each, (0, 1)).all() for each in rows)
    if binary and groups is None and isinstance(score, OfMeans):
        return mcnemar(rows[0][:, 0], rows[1][:, 0], level)
    num = 10_000 if isinstance(score, OfMeans) else 2_000
    tested = approximate_randomisation(*rows, score, groups=groups, level=level, resamples=num, seed=seed)
    bounds = bootstrap_examples(*rows, score, groups=groups, level=level, resamples=num, seed=seed)
    notes = tuple(note for note in bounds.notes if note != _FIXED_MODEL)
    return replace(tested, interval=bounds.interval, notes=(*tested.notes, *notes))


def mcnemar(ours: ArrayLike, baseline: ArrayLike, level: float = 0.95) -> Difference:
    """Compare the accuracy of two fixed models by McNemar's exact test.

    Only examples that exactly one model got right count. The test is the binomial test of their two numbers. The
    interval is that of Bonett and Price (2012), which is valid even if the models never differ.

    Args:
        ours: 1 for each right and 0 for each wrong answer, (examples,).
        baseline: the same of the other model.
        level: confidence level of the interval.

    Returns:
        The difference of accuracies, as fractions. Its `statistic` is McNemar's chi-square, without continuity
        correction.

    Raises:
        InputError: the models have different examples, or an answer is neither 1 nor 0.
    """
    require_level(level)
    first, second = as_rows(ours, "ours"), as_rows(baseline, "the baseline")
    for rows, name in ((first, "ours"), (second, "the baseline")):
        if rows.shape[1] != 1 or not np.isin(rows, (0, 1)).all():
            raise InputError(f"{name} holds other values than 1 (right) and 0 (wrong), one per example")
    if first.shape != second.shape:
        raise InputError(f"ours has {len(first)} examples, the baseline {len(second)}; both must have the same ones")
    stats, num = scipy_stats(), len(first)
    better, worse = int((first > second).sum()), int((first < second).sum())
    differing = better + worse
    p = float(stats.binomtest(min(better, worse), differing).pvalue) if differing else 1.0
    shares = (better + 1) / (num + 2), (worse + 1) / (num + 2)
    centre = shares[0] - shares[1]
    half = float(stats.norm.ppf((1 + level) / 2)) * ((sum(shares) - centre**2) / (num + 2)) ** 0.5
    counts = f"Of {num} examples, {better} were right only in ours and {worse} only in the baseline."
    return Difference(
        difference=(better - worse) / num,
        interval=(max(-1.0, centre - half), min(1.0, centre + half)),
        p=p,
        test="McNemar's exact test",
        n=(num, num),
        notes=(FIXED_MODELS, counts),
        level=level,
        statistic=(better - worse) ** 2 / differing if differing else 0.0,
    )


def approximate_randomisation(
    ours: ArrayLike,
    baseline: ArrayLike,
    score: Score = MEAN,
    *,
    groups: Sequence[object] | None = None,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Difference:
    """Test the difference of any score between two fixed models by approximate randomisation (Noreen 1989).

    If the models do not differ, the two outputs for an example could as well be exchanged. The p-value is
    (1 + c) / (1 + `resamples`), where c counts the random exchanges whose difference is at least as far from 0 as the
    observed one. So it is never 0.

    Args:
        ours: as in `compare_models`.
        baseline: as in `compare_models`.
        score: as in `compare_models`.
        groups: the document of each example; the outputs of a document are exchanged as a whole.
        level: confidence level that the result names. There is no interval: `bootstrap_examples` gives one.
        resamples: number of random exchanges.
        seed: seed of the exchanges' own generator.

    Raises:
        InputError: the models have different examples, values are missing, or there are fewer than 100 resamples.
    """
    require_level(level)
    sample = sample_of([as_rows(ours, "ours"), as_rows(baseline, "the baseline")], score, groups)
    difference = sample.value()
    values = sample.exchanged(np.random.default_rng(seed), _checked(resamples))
    # Sums in another order round differently, but equal differences must count as equal.
    at_least = int(np.sum(np.abs(values) >= abs(difference) - _rounding(difference, values)))
    num = len(np.asarray(ours))
    return Difference(
        difference=difference,
        interval=None,
        p=(1 + at_least) / (1 + resamples),
        test="approximate randomisation",
        n=(num, num),
        notes=(FIXED_MODELS,),
        level=level,
    )


def bootstrap_examples(
    ours: ArrayLike,
    baseline: ArrayLike | None = None,
    score: Score = MEAN,
    *,
    groups: Sequence[object] | None = None,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Estimate:
    """Return the score of one model, or the difference between two, with an interval over resampled examples.

    The interval is bias-corrected and accelerated (BCa; Efron and Tibshirani 1993, chapter 14).

    Args:
        ours: as in `compare_models`.
        baseline: as in `compare_models`; None for the score of one model.
        score: as in `compare_models`.
        groups: the document of each example; documents are drawn as a whole.
        level: confidence level of the interval.
        resamples: number of resamples.
        seed: seed of the bootstrap's own generator.

    Raises:
        InputError: the models have different examples, values are missing, or there are fewer than 100 resamples.
    """
    require_level(level)
    parts = [as_rows(ours, "ours")]
    if baseline is not None:
        parts.append(as_rows(baseline, "the baseline"))
    sample = sample_of(parts, score, groups)
    value = sample.value()
    unit = "examples" if groups is None else "documents"
    notes = [_FIXED_MODEL]
    interval = _bca(sample, value, level, _checked(resamples), seed)
    if interval is None:
        notes.append(f"All resampled {unit} give the same value, so there is no interval.")
    elif sample.num_groups < _FEW:
        notes.append(f"A bootstrap over {sample.num_groups} {unit} gives an interval that is too narrow.")
    return Estimate(value, interval, level, len(parts[0]), f"BCa bootstrap over {unit}", tuple(notes))


def _bca(sample: Sample, value: float, level: float, resamples: int, seed: int) -> tuple[float, float] | None:
    """Return the bias-corrected and accelerated interval, or None if all resamples give one value."""
    norm = scipy_stats().norm
    values = sample.resampled(np.random.default_rng(seed), resamples)
    rounding = _rounding(value, values)
    if np.ptp(values) <= rounding:
        return None
    below, equal = np.sum(values < value - rounding), np.sum(np.abs(values - value) <= rounding)
    # The normal quantile of a share of 0 or 1 is not finite.
    share = np.clip((below + equal / 2) / resamples, 1 / (2 * resamples), 1 - 1 / (2 * resamples))
    bias = norm.ppf(share)
    left, weights = sample.without_each()
    deviations = np.average(left, weights=weights) - left
    squares = float((weights * deviations**2).sum())
    acceleration = float((weights * deviations**3).sum()) / (6 * squares**1.5) if squares > 0 else 0.0
    z = bias + norm.ppf([(1 - level) / 2, (1 + level) / 2])
    low, high = np.quantile(values, norm.cdf(bias + z / (1 - acceleration * z)))
    return float(low), float(high)


def _rounding(value: float, values: Rows) -> float:
    return ROUNDING * max(1e-300, abs(value), float(np.abs(values).max()))


def _checked(resamples: int) -> int:
    if resamples < 100:
        raise InputError(f"resamples is {resamples}; it must be at least 100")
    return resamples
