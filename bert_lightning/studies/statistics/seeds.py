"""Comparison of training procedures, each with several seeds."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from bert_lightning.errors import InputError
from bert_lightning.studies.statistics.exact import (
    least_permutation_p,
    least_sign_flip_p,
    permutations,
    sign_flips,
)
from bert_lightning.studies.statistics.results import Difference, Estimate
from bert_lightning.studies.statistics.t_intervals import Student
from bert_lightning.studies.statistics.values import ROUNDING, no_spread, require_level, standard_error

PAIRED = "paired t test"
WELCH = "Welch's t test"
_TWO = "2 seeds leave one degree of freedom, so the interval is very wide."


def mean_interval(values: Sequence[float], level: float = 0.95) -> Estimate:
    """Return the mean score of one arm with its t interval (n - 1 degrees of freedom).

    A bootstrap over few seeds would give an interval that is too narrow: with three seeds, it covers 73 % instead of
    95 % (`tests/studies/statistics/test_coverage.py`).

    Args:
        values: one score per run. Scores that are not finite are left out, and a note counts them.
        level: confidence level.

    >>> estimate = mean_interval([0.70, 0.72, 0.74])
    >>> round(estimate.value, 4), [round(bound, 4) for bound in estimate.interval]
    (0.72, [0.6703, 0.7697])
    """
    require_level(level)
    scores = np.array([value for value in values if np.isfinite(value)], np.float64)
    num, lost = len(scores), len(values) - len(scores)
    notes = [_lost(lost, len(values), "")] if lost else []
    method = "t interval"
    if not num:
        return Estimate(None, None, level, 0, method, (*notes, "No run has a finite score."))
    mean = float(scores.mean())
    if num == 1:
        notes.append("1 seed shows no spread among seeds, so there is no interval.")
    elif no_spread(scores, float(np.abs(scores).max())):
        notes.append(f"All {num} scores are equal, so they show no spread, and there is no interval.")
    else:
        notes += [_TWO] * (num == 2)
        student = Student(mean, standard_error(scores), num - 1)
        return Estimate(mean, student.interval(level), level, num, method, tuple(notes))
    return Estimate(mean, None, level, num, method, tuple(notes))


def compare_seeds(
    ours: Mapping[int, float],
    baseline: Mapping[int, float],
    level: float = 0.95,
    equivalence: float | None = None,
) -> Difference:
    """Compare the mean scores of two arms over their seeds, on the examples that were scored.

    If both arms have the same seeds, a paired t test compares runs with the same seed, because these share the order
    of the data and the initial weights of a new head. Otherwise, Welch's t test compares the two means. The result
    also has the p-value of the exact test, if there are enough seeds for it to reach 1 - `level`, and not too many to
    count (at most 40 pairs, or 200,000 arrangements of unpaired runs).

    Args:
        ours: seed -> score. Scores that are not finite are left out, and a note names their seeds.
        baseline: seed -> score of the other arm.
        level: confidence level of the interval.
        equivalence: the margin within which the arms count as equal, in units of the score (TOST); None for no test.

    Raises:
        InputError: the level or the margin is not allowed.

    >>> arm, baseline = {1: 0.71, 2: 0.74, 3: 0.73}, {1: 0.70, 2: 0.72, 3: 0.70}
    >>> found = compare_seeds(arm, baseline)
    >>> f"{found.difference:.3f} {found.test}, p {found.p:.3f}"
    '0.020 paired t test, p 0.074'
    >>> found.notes
    ('3 seeds cannot reach p 0.05 by the exact sign-flip test (its least p is 0.25); 6 can.',)
    """
    require_level(level)
    if equivalence is not None and not (np.isfinite(equivalence) and equivalence > 0):
        raise InputError(f"the margin of equivalence is {equivalence}; it must be a number more than 0")
    kept, notes = [], []
    for scores, owner in ((ours, " of ours"), (baseline, " of the baseline")):
        kept.append({seed: score for seed, score in scores.items() if np.isfinite(score)})
        lost = sorted(scores.keys() - kept[-1].keys())
        if lost:
            notes.append(_lost(len(lost), len(scores), owner, lost))
    first, second = kept
    if not first or not second:
        name = "ours" if not first else "the baseline"
        notes.append(f"No run of {name} has a finite score, so there is no difference.")
        return Difference(None, None, None, WELCH, (len(first), len(second)), tuple(notes), level=level)
    if first.keys() == second.keys():
        found = _paired(first, second, level, equivalence)
    else:
        found = _independent(first, second, level, equivalence)
    return replace(found, notes=(*notes, *found.notes))


def compare_tasks(
    ours: Mapping[str, Mapping[int, float]],
    baseline: Mapping[str, Mapping[int, float]],
    level: float = 0.95,
    equivalence: float | None = None,
) -> Difference:
    """Compare two arms over several tasks: average the tasks of each seed, then proceed as in `compare_seeds`.

    The tasks are fixed: the interval holds for other seeds, not for other tasks. A note counts the tasks that were
    won, tied and lost.

    Args:
        ours: task -> seed -> score.
        baseline: the same for the other arm, with the same tasks.
        level: confidence level of the interval.
        equivalence: as in `compare_seeds`, of the average.

    Raises:
        InputError: the arms have no task or different tasks.
    """
    if not ours or ours.keys() != baseline.keys():
        differing = ", ".join(sorted(ours.keys() ^ baseline.keys())) or "none"
        raise InputError(f"both arms must have the same tasks, at least one; in one arm only: {differing}")
    found = compare_seeds(_averages(ours), _averages(baseline), level, equivalence)
    won, tied, lost = tasks_won(ours, baseline)
    counts = f"{won} won, {tied} tied, {lost} lost"
    notes = (
        f"Of {len(ours)} tasks: {counts}, by their means.",
        "The tasks are not a random sample, so the interval says nothing about other tasks.",
    )
    return replace(found, test=f"{found.test} of the average over tasks", notes=(*found.notes, *notes))


def tasks_won(
    ours: Mapping[str, Mapping[int, float]], baseline: Mapping[str, Mapping[int, float]]
) -> tuple[int, int, int]:
    """Return the numbers of tasks on which the mean of ours is higher than, equal to and lower than the baseline's.

    Args:
        ours: task -> seed -> score. A task without a finite score in one of the arms is not counted.
        baseline: the same for the other arm, with the same tasks.

    >>> tasks_won({"rte": {1: 0.7}, "cola": {1: 0.5}}, {"rte": {1: 0.6}, "cola": {1: 0.5}})
    (1, 1, 0)
    """
    signs = [_sign(compare_seeds(ours[task], baseline[task]).difference) for task in ours]
    return signs.count(1), signs.count(0), signs.count(-1)


def _sign(difference: float | None) -> int | None:
    """Return 1, 0 or -1; None if the arms have no finite score on a task."""
    if difference is None:
        return None
    # Scores are at most 100, so a smaller difference is due to rounding.
    return 0 if abs(difference) < 100 * ROUNDING else int(np.sign(difference))


def _averages(arm: Mapping[str, Mapping[int, float]]) -> dict[int, float]:
    """Return seed -> average over tasks; nan for a seed that lacks a task."""
    seeds = sorted({seed for scores in arm.values() for seed in scores})
    return {seed: float(np.mean([scores.get(seed, np.nan) for scores in arm.values()])) for seed in seeds}


def _paired(
    ours: Mapping[int, float], baseline: Mapping[int, float], level: float, equivalence: float | None
) -> Difference:
    seeds, num = sorted(ours), len(ours)
    first, second = np.array([[arm[seed] for seed in seeds] for arm in (ours, baseline)], np.float64)
    differences = first - second
    mean, scale = float(differences.mean()), float(max(np.abs(first).max(), np.abs(second).max()))
    found = Difference(mean, None, None, PAIRED, (num, num), level=level)
    if num == 1:
        note = "1 seed shows no spread among seeds, so there is neither an interval nor a test."
        return replace(found, notes=(note,))
    if num == 2:
        found = replace(found, notes=(_TWO,))
    needed = next(n for n in range(1, 1100) if _reaches(least_sign_flip_p(n), level))
    if num < needed:
        note = (
            f"{num} seeds cannot reach p {1 - level:g} by the exact sign-flip test (its least p is "
            f"{least_sign_flip_p(num):.3g}); {needed} can."
        )
        found = replace(found, notes=(*found.notes, note))
    elif (exact_p := sign_flips(differences)) is not None:
        found = replace(found, exact_p=exact_p, exact_test="exact sign-flip test")
    if no_spread(differences, scale):
        note = (
            f"All {num} differences are equal, so they show no spread, and there is neither an interval nor a t test."
        )
        if abs(mean) <= ROUNDING * scale:
            found = replace(found, difference=0.0)
            note = f"All {num} differences are 0: the setting changed no score, so there is nothing to test."
        return replace(found, notes=(*found.notes, note))
    return _tested(found, Student(mean, standard_error(differences), num - 1), equivalence)


def _independent(
    ours: Mapping[int, float], baseline: Mapping[int, float], level: float, equivalence: float | None
) -> Difference:
    first, second = (np.array(list(arm.values()), np.float64) for arm in (ours, baseline))
    nums = len(first), len(second)
    notes = [f"The arms have {_shared(len(ours.keys() & baseline.keys()))}, so their runs are not paired."]
    scale = float(max(np.abs(first).max(), np.abs(second).max()))
    difference = float(first.mean() - second.mean())
    found = Difference(difference, None, None, WELCH, nums, level=level)
    if min(nums) == 1:
        notes.append("An arm of 1 run shows no spread among seeds, so there is neither an interval nor a test.")
        return replace(found, notes=tuple(notes))
    if _reaches(least_permutation_p(*nums), level):
        exact = permutations(first, second)
        found = replace(found, exact_p=exact, exact_test=None if exact is None else "exact permutation test")
    else:
        needed = next(n for n in range(1, 600) if _reaches(least_permutation_p(n, n), level))
        notes.append(
            f"{nums[0]} against {nums[1]} runs cannot reach p {1 - level:g} by the exact permutation test (its least "
            f"p is {least_permutation_p(*nums):.3g}); {needed} against {needed} can."
        )
    errors = []
    for scores, owner in ((first, "ours"), (second, "the baseline")):
        equal = no_spread(scores, scale)
        errors.append(0.0 if equal else standard_error(scores))
        if equal:
            notes.append(f"All {len(scores)} scores of {owner} are equal, so they show no spread.")
    found = replace(found, notes=tuple(notes))
    if not any(errors):
        note = "Neither arm shows any spread, so there is neither an interval nor a t test."
        return replace(found, notes=(*notes, note))
    error = math.hypot(*errors)
    degrees = 1 / sum((each / error) ** 4 / (n - 1) for each, n in zip(errors, nums, strict=True))
    return _tested(found, Student(difference, error, degrees), equivalence)


def _tested(found: Difference, student: Student, equivalence: float | None) -> Difference:
    """Add the t test, the t interval and, if there is a margin, the test of equivalence to a difference."""
    tested = replace(
        found, interval=student.interval(found.level), p=student.p(), statistic=student.t, degrees=student.degrees
    )
    if equivalence is None:
        return tested
    p = student.equivalence_p(equivalence)
    low, high = student.interval(2 * found.level - 1)
    equivalent = p < 1 - found.level
    inside = "lies within" if equivalent else "does not lie within"
    note = f"The {100 * (2 * found.level - 1):g} % interval ({low:.3g}, {high:.3g}) {inside} ± {equivalence:g}" + (
        "." if equivalent else ", so equivalence is not shown."
    )
    return replace(tested, equivalent=equivalent, equivalence_p=p, notes=(*found.notes, note))


def _reaches(p: float, level: float) -> bool:
    return p <= 1 - level + 1e-12


def _shared(num: int) -> str:
    return {0: "no seed in common", 1: "only 1 seed in common"}.get(
        num, f"{num} seeds in common and others that differ"
    )


def _lost(num: int, total: int, owner: str, seeds: Sequence[int] = ()) -> str:
    named = f" (seed{'s' if num > 1 else ''} {', '.join(map(str, seeds))})" if seeds else ""
    have = "has" if num == 1 else "have"
    return f"{num} of {total} runs{owner} {have} no finite score{named}, so the mean describes the others only."
