"""How often intervals hold the true value: simulations with a fixed generator and bounds from the binomial law."""

import numpy as np
import pytest
from scipy import stats

from bert_lightning.studies.statistics import MEAN, crossed_interval, mean_interval, multi_bootstrap

_SD_EXAMPLES, _SD_RESIDUALS = 0.2, 0.4


def at_least(share: float, draws: int) -> int:
    """Return the number of hits that an interval with this coverage misses once in ten thousand simulations."""
    return int(stats.binom.ppf(1e-4, draws, share))


def at_most(share: float, draws: int) -> int:
    return int(stats.binom.ppf(1 - 1e-4, draws, share))


def differences(generator: np.random.Generator, seeds: int, examples: int, sd_seeds: float) -> np.ndarray:
    """Return differences (seeds, examples) with the true mean 0 and three sources of chance."""
    values = generator.normal(0, _SD_RESIDUALS, (seeds, examples))
    return values + generator.normal(0, sd_seeds, (seeds, 1)) + generator.normal(0, _SD_EXAMPLES, (1, examples))


def hit(interval: tuple[float, float]) -> bool:
    return interval[0] <= 0 <= interval[1]


@pytest.mark.parametrize("num", [3, 5, 10])
def test_the_t_interval_of_a_mean_covers_what_it_promises_and_a_bootstrap_does_not(num):
    generator, draws = np.random.default_rng(num), 1000
    hits = bootstrap_hits = 0
    for _ in range(draws):
        values = generator.normal(size=num)
        hits += hit(mean_interval(values).interval)
        means = values[generator.integers(num, size=(300, num))].mean(axis=1)
        bootstrap_hits += hit(tuple(np.quantile(means, [0.025, 0.975])))
    assert at_least(0.95, draws) <= hits <= at_most(0.95, draws)
    # Percentile intervals of 3, 5 and 10 values cover about 75, 84 and 90 %.
    assert bootstrap_hits <= at_most({3: 0.77, 5: 0.85, 10: 0.91}[num], draws)


@pytest.mark.parametrize(("seeds", "examples", "draws"), [(3, 277, 600), (5, 277, 600), (10, 277, 400)])
def test_the_crossed_interval_covers_other_seeds_and_examples(seeds, examples, draws):
    generator = np.random.default_rng(seeds)
    hits = sum(hit(crossed_interval(differences(generator, seeds, examples, 0.015)).interval) for _ in range(draws))
    assert at_least(0.93, draws) <= hits <= at_most(0.98, draws)


def test_intervals_over_seeds_alone_or_examples_alone_are_too_narrow_for_both():
    generator, draws = np.random.default_rng(0), 200
    crossed = examples_alone = 0
    for _ in range(draws):
        values = differences(generator, 3, 5000, 0.015)
        crossed += hit(crossed_interval(values).interval)
        examples_alone += hit(mean_interval(values.mean(axis=0)).interval)
    # 62 % in long simulations.
    assert examples_alone <= at_most(0.66, draws)
    assert crossed >= at_least(0.92, draws)
    seeds_alone = 0
    for _ in range(draws):
        seeds_alone += hit(mean_interval(differences(generator, 10, 277, 0.015).mean(axis=1)).interval)
    # 78 %.
    assert seeds_alone <= at_most(0.81, draws)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seeds", "examples", "sd_seeds"),
    [(3, 277, 0.015), (3, 5000, 0.015), (5, 277, 0.015), (5, 5000, 0.005), (10, 277, 0.015), (10, 5000, 0.015)],
)
def test_the_crossed_interval_covers_in_every_row_of_the_table(seeds, examples, sd_seeds):
    generator, draws = np.random.default_rng(9), 2000
    hits = sum(
        hit(crossed_interval(differences(generator, seeds, examples, sd_seeds)).interval) for _ in range(draws)
    )
    # 92 to 97 % were seen.
    assert at_least(0.92, draws) <= hits <= at_most(0.98, draws)


@pytest.mark.slow
def test_the_multi_bootstrap_of_three_seeds_covers_too_little_where_seeds_matter_most():
    generator, draws = np.random.default_rng(11), 300
    hits = 0
    for _ in range(draws):
        values = differences(generator, 3, 5000, 0.015)
        found = multi_bootstrap(values, np.zeros_like(values), MEAN, resamples=200)
        hits += hit(found.interval)
    assert at_least(0.84, draws) <= hits <= at_most(0.91, draws)
