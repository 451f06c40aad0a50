"""Whether a higher or a lower value of a metric is better: lower for a loss, higher for an accuracy."""

from typing import Literal

Better = Literal["max", "min"]

# Ends of the names of metrics.
_LOWER = ("loss", "error", "perplexity")
_HIGHER = ("accuracy", "f1", "precision", "recall", "matthews", "pearson", "spearman", "exact")
# Parts of names of values that describe the data and not the model: the score of guessing, a threshold.
_OF_DATA = ("unigram_", "majority_", "threshold")


def better(metric: str) -> Better | None:
    """Return `max` or `min`, whichever is better for a metric; None if its name does not tell.

    >>> better("val/mlm_loss"), better("test/mismatched_accuracy"), better("val/mlm_unigram_loss")
    ('min', 'max', None)
    """
    name = metric.rpartition("/")[2].lower()
    if any(part in name for part in _OF_DATA):
        return None
    if name.endswith(_LOWER):
        return "min"
    return "max" if name.endswith(_HIGHER) else None
