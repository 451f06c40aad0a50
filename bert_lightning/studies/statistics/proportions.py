"""Intervals and tests of counts: accuracy of one run, failed runs."""

from bert_lightning.studies.statistics.results import Difference, Estimate


def wilson(num_right: int, num: int, level: float = 0.95) -> Estimate:
    """Return a proportion, such as the accuracy of one run, with Wilson's interval."""
    raise NotImplementedError


def fisher_failures(
    failed_ours: int, num_ours: int, failed_baseline: int, num_baseline: int, level: float = 0.95
) -> Difference:
    """Compare how many runs of two arms failed, by Fisher's exact test."""
    raise NotImplementedError
