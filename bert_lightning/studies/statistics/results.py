"""Results of the tests and intervals of this package: an estimate, or a difference between two arms."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """One number with its interval.

    Attributes:
        value: the estimate; None if there is no finite value to compute it from.
        interval: lower and upper bound; None if the data cannot give one, and then a note says why.
        level: confidence level of the interval, such as 0.95.
        num: number of values that the estimate is computed from: runs, or examples.
        method: how the interval was computed, for a caption.
        notes: whole sentences for the caption, about what these data cannot show.
    """

    value: float | None
    interval: tuple[float, float] | None
    level: float
    num: int
    method: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Difference:
    """A difference between two arms or models (ours minus the baseline), with its interval and test.

    All tests are two-sided.

    Attributes:
        difference: ours minus the baseline, in units of the score; None if an arm has no finite value.
        interval: lower and upper bound of the difference; None if the data cannot give one, and then a note says why.
        p: the p-value of the test; None if the data cannot give one.
        test: name of the test, for a caption, such as `paired t test`.
        n: number of values of ours and of the baseline that were used: runs, or examples.
        notes: whole sentences for the caption, about what these data cannot show.
        equivalent: whether the arms are equivalent: the interval of level 2 `level` - 1 lies within the margin
            (TOST). None without a margin or an interval. False is not evidence of a difference.
        level: confidence level of the interval.
        statistic: value of the test statistic, t or chi-square; None if the test has none.
        degrees: degrees of freedom of the statistic; None if it has none.
        exact_p: p-value of the exact test of the same data; None if it could not reach 1 - `level`, or if there are
            too many runs to count all cases.
        exact_test: name of the exact test.
        equivalence_p: p-value of the two one-sided tests of equivalence.
    """

    difference: float | None
    interval: tuple[float, float] | None
    p: float | None
    test: str
    n: tuple[int, int]
    notes: tuple[str, ...] = ()
    equivalent: bool | None = None
    level: float = 0.95
    statistic: float | None = None
    degrees: float | None = None
    exact_p: float | None = None
    exact_test: str | None = None
    equivalence_p: float | None = None
