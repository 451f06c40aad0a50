"""Evenly spread draws, compared with the bounds that the theory gives."""

import math
from itertools import pairwise

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from bert_lightning.studies.search.halton import value_at
from bert_lightning.studies.search.settings import QuasiRandom
from tests.studies.search.synthetic import Disk, search, settings


@pytest.mark.parametrize("seed", range(5))
def test_few_trials_leave_no_gap_of_more_than_two_shares_of_the_range(seed):
    # The rate is the first key, so its base is 2. The shift turns the range into a circle, on which 2^k points are
    # evenly spaced, and the points between two powers halve some of these distances.
    for trials in (2, 3, 4, 5, 8, 13, 16):
        drawn = search(Disk(), settings(sampler=QuasiRandom(), trials=trials, seed=seed))
        rates = sorted((math.log10(params["rate"]) + 5) / 4 for params, *_ in drawn)
        gaps = [after - before for before, after in pairwise([*rates, rates[0] + 1])]
        assert max(gaps) <= 2 / trials + 1e-9


def test_another_seed_draws_other_values_and_every_choice_is_drawn_equally_often():
    one, other = (search(Disk(), settings(sampler=QuasiRandom(), trials=12, seed=seed)) for seed in (1, 2))
    assert {params["rate"] for params, *_ in one}.isdisjoint(params["rate"] for params, *_ in other)
    kinds = [params["kind"] for params, *_ in one]
    # The third key has the base 5, so of 5 trials in a row, each fifth of the choices has one.
    assert abs(kinds[:10].count("plain") - 5) <= 1


@pytest.mark.parametrize(
    "distribution",
    [
        FloatDistribution(0.0, 1.0, step=0.25),
        IntDistribution(1, 8),
        IntDistribution(0, 12, step=3),
        IntDistribution(1, 64, log=True),
        FloatDistribution(1e-5, 1e-1, log=True),
        CategoricalDistribution(["a", "b", "c"]),
    ],
)
def test_values_are_allowed_and_have_the_shares_of_the_distribution(distribution):
    number = 24_000
    drawn = [value_at(place / number, distribution) for place in range(number)]
    assert all(distribution._contains(distribution.to_internal_repr(value)) for value in drawn)
    if isinstance(distribution, CategoricalDistribution):
        expected = dict.fromkeys(distribution.choices, number / 3)
    elif distribution.log and isinstance(distribution, IntDistribution):
        width = math.log(64.5) - math.log(0.5)
        expected = {n: number * (math.log(n + 0.5) - math.log(n - 0.5)) / width for n in range(1, 65)}
    elif distribution.log:
        assert drawn == sorted(drawn)
        assert math.log10(drawn[number // 4]) == pytest.approx(-4)
        return
    else:
        values = np.arange(distribution.low, distribution.high + 1e-9, distribution.step)
        expected = dict.fromkeys(values.tolist(), number / len(values))
    for value, times in expected.items():
        assert abs(drawn.count(value) - times) <= 1
