"""The t test, the t interval and the two one-sided tests for an estimate with a standard error."""

from dataclasses import dataclass

from bert_lightning.studies.statistics.values import scipy_stats


@dataclass(frozen=True)
class Student:
    """An estimate with its standard error and the degrees of freedom of the standard error.

    Attributes:
        estimate: the estimate, such as a mean difference.
        error: its standard error, more than 0.
        degrees: degrees of freedom.
    """

    estimate: float
    error: float
    degrees: float

    @property
    def t(self) -> float:
        return self.estimate / self.error

    def p(self) -> float:
        """Return the two-sided p-value for the hypothesis that the true value is 0."""
        return float(2 * scipy_stats().t.sf(abs(self.t), self.degrees))

    def interval(self, level: float) -> tuple[float, float]:
        """Return the confidence interval of the true value."""
        half = float(scipy_stats().t.ppf((1 + level) / 2, self.degrees)) * self.error
        return self.estimate - half, self.estimate + half

    def equivalence_p(self, margin: float) -> float:
        """Return the p-value of equivalence: the larger one of the two one-sided tests (Schuirmann 1987).

        It is below alpha if and only if the interval of level 1 - 2 alpha lies between -margin and margin.
        """
        t = scipy_stats().t
        above = t.sf((self.estimate + margin) / self.error, self.degrees)
        below = t.cdf((self.estimate - margin) / self.error, self.degrees)
        return float(max(above, below))
