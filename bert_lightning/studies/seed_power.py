"""The command `power`: how many seeds are needed to find a difference, given the spread of finished runs."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bert_lightning.checks import nearest
from bert_lightning.errors import InputError
from bert_lightning.runs.status import is_score
from bert_lightning.studies.seed_groups import SeedGroup, seed_groups
from bert_lightning.studies.statistics import (
    detectable_difference,
    deviation_interval,
    power_of_t,
    seeds_needed,
)

LEVEL = 0.95
"""Confidence level of the interval of a standard deviation."""
# Equal scores may differ by rounding.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Question:
    """A question about the number of seeds.

    Attributes:
        metric: name of the score.
        difference: the true difference that the test should find, in units of the score.
        power: the probability with which the test should find it.
        alpha: level of the two-sided t test.
    """

    metric: str
    difference: float
    power: float
    alpha: float


@dataclass(frozen=True)
class Answer:
    """Number of seeds that two arms need, from one estimate of the standard deviation.

    Attributes:
        label: the arm, or the two arms, whose runs gave the estimate.
        paired: whether both arms have the same seeds. Then the estimate is that of the differences between them.
        num: number of pairs, or of runs per arm, that exist.
        deviation: the standard deviation; None if all values are equal, or if there are fewer than two.
        interval: its 95 % confidence interval.
        needed: seeds per arm that are needed to find the difference.
        needed_interval: the same for both ends of `interval`.
        power_now: probability with which `num` seeds find the difference; None if `num` is less than 2.
        detectable: the difference that `num` seeds find with the required power; None if `num` is less than 2.
        detectable_interval: the same for both ends of `interval`.
        needed_apart: if `paired`, the seeds per arm that would be needed if the arms had different seeds.
    """

    label: str
    paired: bool
    num: int
    deviation: float | None
    interval: tuple[float, float] | None = None
    needed: int | None = None
    needed_interval: tuple[int, int] | None = None
    power_now: float | None = None
    detectable: float | None = None
    detectable_interval: tuple[float, float] | None = None
    needed_apart: int | None = None


@dataclass(frozen=True)
class Answers:
    """Answers of all arms.

    Attributes:
        question: what was asked.
        arms: one per arm with at least two seeds, from the spread of its runs.
        pairs: one per arm except the baseline, from the differences between runs with the same seed, or from the
            spread of the runs of both arms if their seeds differ.
        scores: the lowest and the highest score of all runs.
        notes: whole sentences about runs that were left out.
    """

    question: Question
    arms: list[Answer]
    pairs: list[Answer]
    scores: tuple[float, float]
    notes: list[str]


def seeds_for_difference(
    paths: Sequence[Path],
    difference: float,
    metric: str | None = None,
    power: float = 0.8,
    alpha: float = 0.05,
    baseline: str | None = None,
) -> Answers:
    """Compute how many seeds a difference needs, from finished runs.

    Args:
        paths: run directories, folders that hold some, and studies.
        difference: the true difference that the test should find, more than 0.
        metric: the score; by default that of the study, or else the first score that all arms have.
        power: the probability with which the test should find the difference.
        alpha: level of the two-sided t test.
        baseline: label of the arm to compare with; by default that of the study, or else the first one.

    Raises:
        InputError: no run has finished, no arm has two seeds, or metric, baseline or a number is not allowed.
    """
    for name, value in (("power", power), ("level", alpha)):
        if not 0 < value < 1:
            raise InputError(f"--{name} is {value}; it must be more than 0 and less than 1")
    if power <= alpha:
        raise InputError(f"--power is {power}; it must be more than --level ({alpha})")
    if not 0 < difference < float("inf"):
        raise InputError(f"--difference is {difference}; it must be more than 0, in units of the score")
    groups, notes = seed_groups(paths)
    if not groups:
        raise InputError(f"no run has finished in {', '.join(map(str, paths))}")
    question = Question(_metric(groups, metric), difference, power, alpha)
    values = {id(group): _scores(group, question.metric) for group in groups}
    scored = [group for group in groups if values[id(group)]]
    if all(len(values[id(group)]) < 2 for group in scored):
        raise InputError("no arm has two seeds, so there is no spread between seeds to compute with")
    firsts = _baselines(scored, baseline)
    arms = [_of_arm(question, group.label, values[id(group)]) for group in scored if len(values[id(group)]) > 1]
    pairs = [
        _of_pair(question, group.label, first.label, values[id(group)], values[id(first)])
        for group in scored
        if (first := firsts[group.table]) is not group
    ]
    every = [score for scores in values.values() for score in scores.values()]
    return Answers(question, arms, pairs, (min(every), max(every)), notes)


def _metric(groups: Sequence[SeedGroup], metric: str | None) -> str:
    """Return the given metric, or else the first that the study compares, or else the first that all arms have."""
    names = [[name for run in group.runs.values() for name in run.scores() if is_score(name)] for group in groups]
    known = list(dict.fromkeys(name for each in names for name in each))
    if metric is not None:
        if metric not in known:
            raise InputError(f"--metric: no run has the score {metric!r}{nearest(metric, known)}")
        return metric
    common = [name for name in known if all(name in each for each in names)]
    of_study = [name for group in groups for name in group.metrics if name in common]
    choices = of_study or sorted(common, key=lambda name: "loss" in name)
    if not choices:
        raise InputError(f"the runs have no score in common: choose one with --metric{nearest('', known)}")
    return choices[0]


def _scores(group: SeedGroup, metric: str) -> dict[int, float]:
    scores = {seed: run.scores().get(metric) for seed, run in group.runs.items()}
    return {seed: score for seed, score in scores.items() if score is not None and abs(score) < float("inf")}


def _baselines(groups: Sequence[SeedGroup], label: str | None) -> dict[tuple[str, str], SeedGroup]:
    """Return the group that each table compares with: the named one in its table, that of the study, or the first."""
    found: dict[tuple[str, str], SeedGroup] = {}
    for group in groups:
        found.setdefault(group.table, group)
    found |= {group.table: group for group in groups if group.is_baseline}
    named = {group.table: group for group in groups if group.label == label}
    if label is not None and not named:
        raise InputError(f"--baseline: no arm is called {label!r}{nearest(label, [group.label for group in groups])}")
    return found | named


def _of_arm(question: Question, label: str, scores: dict[int, float]) -> Answer:
    values = [*scores.values()]
    return _answer(question, label, False, len(values), _deviation(values), len(values) - 1)


def _of_pair(
    question: Question, label: str, baseline: str, ours: dict[int, float], theirs: dict[int, float]
) -> Answer:
    """Answer from differences between runs with the same seed, or from the runs of both arms if seeds differ."""
    name = f"{label} against {baseline}"
    arms = [(len(scores) - 1, _deviation([*scores.values()])) for scores in (ours, theirs)]
    weighted = [(degrees, deviation**2) for degrees, deviation in arms if deviation is not None]
    degrees = sum(degrees for degrees, _ in weighted)
    # Only with these weights is the interval of the pooled variance that of a chi-square distribution.
    pooled = (sum(each * variance for each, variance in weighted) / degrees) ** 0.5 if degrees else None
    apart = _answer(question, name, False, min(len(ours), len(theirs)), pooled, degrees)
    if ours.keys() != theirs.keys():
        return apart
    values = [ours[seed] - theirs[seed] for seed in ours]
    found = _answer(question, name, True, len(values), _deviation(values), len(values) - 1)
    return replace(found, needed_apart=apart.needed)


def _deviation(values: Sequence[float]) -> float | None:
    """Return the standard deviation; 0 if values differ only by rounding, None if there are fewer than two."""
    if len(values) < 2:
        return None
    deviation = statistics.stdev(values)
    return deviation if deviation > _ROUNDING * max(map(abs, values)) else 0.0


def _answer(question: Question, label: str, paired: bool, num: int, deviation: float | None, degrees: int) -> Answer:
    if not deviation:
        return Answer(label, paired, num, None)
    interval = deviation_interval(deviation, degrees, LEVEL)

    def needed(spread: float) -> int:
        return seeds_needed(question.difference, spread, paired=paired, power=question.power, alpha=question.alpha)

    def detectable(spread: float) -> float:
        return detectable_difference(num, spread, paired=paired, power=question.power, alpha=question.alpha)

    low, high = interval
    found = Answer(label, paired, num, deviation, interval, needed(deviation), (needed(low), needed(high)))
    if num < 2:
        return found
    now = power_of_t(num, question.difference, deviation, paired=paired, alpha=question.alpha)
    bounds = detectable(low), detectable(high)
    return replace(found, power_now=now, detectable=detectable(deviation), detectable_interval=bounds)
