"""Intervals and tests of proportions: the accuracy of one run, and the share of failed runs."""

from bert_lightning.errors import InputError
from bert_lightning.studies.statistics.results import Difference, Estimate
from bert_lightning.studies.statistics.values import require_level, scipy_stats


def wilson(num_right: int, num: int, level: float = 0.95) -> Estimate:
    """Return a proportion, such as the accuracy of one run, with the interval of Wilson (1927).

    The interval is valid even for perfect scores and for few examples.

    Args:
        num_right: examples that were right.
        num: all examples.
        level: confidence level.

    Raises:
        InputError: there is no example, or more are right than there are.

    >>> found = wilson(184, 277)
    >>> f"{found.value:.3f} ({found.interval[0]:.3f}, {found.interval[1]:.3f})"
    '0.664 (0.607, 0.717)'
    """
    require_level(level)
    _check(num_right, num, "right examples")
    low, high = _bounds(num_right, num, level)
    note = "The interval is over examples: it says nothing about other seeds."
    return Estimate(num_right / num, (low, high), level, num, "Wilson's interval", (note,))


def fisher_failures(
    failed_ours: int, num_ours: int, failed_baseline: int, num_baseline: int, level: float = 0.95
) -> Difference:
    """Compare the shares of failed runs of two arms by Fisher's exact test.

    If some runs collapse, the mean over all runs describes neither the collapsed ones nor the others (Mosbach et al.
    2021). So report this test in addition to the test of all runs. The interval of the difference is that of Newcombe
    (1998, method 10).

    Args:
        failed_ours: failed runs of ours, such as those that diverged or ended at the majority class.
        num_ours: all runs of ours.
        failed_baseline: failed runs of the baseline.
        num_baseline: all runs of the baseline.
        level: confidence level.

    Raises:
        InputError: an arm has no run, or more failed runs than runs.

    >>> round(fisher_failures(8, 20, 1, 20).p, 4)
    0.0197
    """
    require_level(level)
    _check(failed_ours, num_ours, "failed runs of ours")
    _check(failed_baseline, num_baseline, "failed runs of the baseline")
    table = [[failed_ours, num_ours - failed_ours], [failed_baseline, num_baseline - failed_baseline]]
    first, second = failed_ours / num_ours, failed_baseline / num_baseline
    low, high = _bounds(failed_ours, num_ours, level)
    low_baseline, high_baseline = _bounds(failed_baseline, num_baseline, level)
    difference = first - second
    return Difference(
        difference=difference,
        interval=(
            difference - ((first - low) ** 2 + (high_baseline - second) ** 2) ** 0.5,
            difference + ((high - first) ** 2 + (second - low_baseline) ** 2) ** 0.5,
        ),
        p=min(1.0, float(scipy_stats().fisher_exact(table).pvalue)),
        test="Fisher's exact test of failures",
        n=(num_ours, num_baseline),
        notes=(f"{failed_ours} of {num_ours} runs failed, against {failed_baseline} of {num_baseline}.",),
        level=level,
    )


def _bounds(num_right: int, num: int, level: float) -> tuple[float, float]:
    squared = float(scipy_stats().norm.ppf((1 + level) / 2)) ** 2
    share = num_right / num
    centre = (share + squared / (2 * num)) / (1 + squared / num)
    half = (squared * (share * (1 - share) / num + squared / (4 * num**2))) ** 0.5 / (1 + squared / num)
    # At 0 and 1 the exact bound is 0 or 1; the formula would give it with a rounding error.
    return (0.0 if num_right == 0 else centre - half), (1.0 if num_right == num else centre + half)


def _check(part: int, whole: int, name: str) -> None:
    if whole < 1 or not 0 <= part <= whole:
        raise InputError(
            f"there are {part} {name} of {whole}; there must be at least 1 in total, and the part may not exceed it"
        )
