"""Expected validation performance: the expected best score of a search with fewer trials."""

from collections.abc import Sequence
from math import comb

import numpy as np

from bert_lightning.errors import InputError
from bert_lightning.studies.statistics.values import finite


def expected_maximum(values: Sequence[float], n: int, *, replacement: bool = False) -> float:
    """Return the expected best score of n trials, the expected validation performance.

    Without replacement, it is the mean of the maximum over all subsets of n of the N trials. This estimator is
    unbiased (Tang et al. 2020): the sum over i of C(i - 1, n - 1) / C(N, n) times the i-th smallest score. With
    replacement, it is the estimator of Dodge et al. (2019, equation 7), which is too low: the sum over i of ((i /
    N)^n - ((i - 1) / N)^n) times the i-th smallest score.

    Both assume that trials were drawn independently, as in a random search. If lower is better, negate the scores and
    the result. A failed trial must count with the score that would be reported for it, such as that of guessing,
    because leaving it out would flatter the search.

    Args:
        values: score of each trial; higher is better.
        n: number of trials of the smaller budget.
        replacement: whether to use the form of Dodge et al.

    Raises:
        InputError: a score is not finite, or n is less than 1 or, without replacement, more than the trials.

    >>> round(expected_maximum([1, 2, 3], 2), 4), round(expected_maximum([1, 2, 3], 2, replacement=True), 4)
    (2.6667, 2.4444)
    """
    scores = np.sort(finite(values, "values"))
    num = len(scores)
    if n < 1 or (n > num and not replacement):
        most = "" if replacement else f" and at most {num}, the number of trials"
        raise InputError(f"the budget is {n} trials; it must be at least 1{most}")
    if replacement:
        weights = np.diff((np.arange(num + 1) / num) ** n)
    else:
        # Python divides integers of any size correctly.
        weights = np.array([comb(rank - 1, n - 1) / comb(num, n) for rank in range(1, num + 1)])
    return float(weights @ scores)
