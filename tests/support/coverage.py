"""How often intervals hold the true difference of two arms, in simulations with a fixed generator.

`python tests/support/coverage.py` prints the table of `docs/statistics.md`.
"""

import argparse
from collections.abc import Callable

import numpy as np

from bert_lightning.studies.statistics import MEAN, crossed_interval, mean_interval, multi_bootstrap

Interval = tuple[float, float] | None
ROWS = [(3, 277, 0.015), (3, 5000, 0.015), (5, 277, 0.015), (5, 5000, 0.005), (10, 277, 0.015), (10, 5000, 0.015)]
SD_EXAMPLES, SD_RESIDUALS = 0.2, 0.4


def simulated(generator: np.random.Generator, seeds: int, examples: int, sd_seeds: float) -> tuple[np.ndarray, float]:
    """Return differences (seeds, examples) with the true mean 0, and the true mean on these examples.

    The differences are sums of three normal values: one of the seed, one of the example, and one of both.
    """
    of_examples = generator.normal(0, SD_EXAMPLES, examples)
    values = generator.normal(0, SD_RESIDUALS, (seeds, examples)) + generator.normal(0, sd_seeds, (seeds, 1))
    return values + of_examples, float(of_examples.mean())


def holds(interval: Interval, true: float) -> bool:
    return interval is not None and interval[0] <= true <= interval[1]


def over_seeds(values: np.ndarray) -> Interval:
    return mean_interval(values.mean(axis=1)).interval


def over_examples(values: np.ndarray) -> Interval:
    return mean_interval(values.mean(axis=0)).interval


def over_both(values: np.ndarray) -> Interval:
    return crossed_interval(values).interval


def resampled(values: np.ndarray) -> Interval:
    return multi_bootstrap(values, np.zeros_like(values), MEAN, resamples=200).interval


def coverage(interval: Callable[[np.ndarray], Interval], row: tuple[int, int, float], draws: int, new: bool) -> float:
    """Return the share of simulations in which an interval holds the true difference.

    Args:
        interval: from differences (seeds, examples) to an interval.
        row: number of seeds, number of examples, standard deviation of the seeds.
        draws: number of simulations.
        new: whether the true difference is that on all possible examples, instead of on those that were drawn.
    """
    generator = np.random.default_rng(0)
    hits = 0
    for _ in range(draws):
        values, here = simulated(generator, *row)
        hits += holds(interval(values), 0.0 if new else here)
    return hits / draws


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=2000)
    draws = parser.parse_args().draws
    print(
        "seeds | examples | sd of seeds | t, these examples | t, new examples | multi-bootstrap | crossed | examples"
    )
    for row in ROWS:
        shares = [
            coverage(over_seeds, row, draws, new=False),
            coverage(over_seeds, row, draws, new=True),
            coverage(resampled, row, draws // 5, new=True),
            coverage(over_both, row, draws, new=True),
            coverage(over_examples, row, draws, new=True),
        ]
        print(*row, *(f"{100 * share:.1f}" for share in shares), sep=" | ", flush=True)


if __name__ == "__main__":
    main()
