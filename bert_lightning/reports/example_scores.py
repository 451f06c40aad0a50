"""Which examples a run got right, from the predictions of its last validation."""

import json
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bert_lightning.studies.comparison import Run

# The metric that is a mean over examples, whose predictions hold a label and the gold label.
_METRIC = "val/accuracy"
# The mean over the file must be the score, to within the rounding of sums.
_TOLERANCE = 1e-6


def paired_correctness(
    metric: str, ours: Sequence[Run], baseline: Sequence[Run]
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Return for two arms which examples each seed got right, both (seeds, examples) with 0 and 1.

    Args:
        metric: the metric that the examples must average to.
        ours: the runs of one arm.
        baseline: the runs of the other arm, with the same seeds in the same order.

    Returns:
        None if the metric is no mean over examples, if a run has no predictions, if they do not give its score (as
        after `validate` on another checkpoint), or if the runs have other examples.
    """
    if metric != _METRIC or [run.seed for run in ours] != [run.seed for run in baseline]:
        return None
    examples: list[str] | None = None
    rows: list[list[float]] = []
    for run in (*ours, *baseline):
        correct = _correctness(run)
        if correct is None or (examples is not None and correct[0] != examples):
            return None
        examples = correct[0]
        rows.append(correct[1])
    if not examples or len(examples) < 2:
        return None
    values = np.array(rows, dtype=np.float64)
    return values[: len(ours)], values[len(ours) :]


def _correctness(run: Run) -> tuple[list[str], list[float]] | None:
    """Return the examples of a run, without what it predicted, and whether it got each right."""
    path = run.directory.predictions / "validation.jsonl"
    examples, correct = [], []
    try:
        with open(path, encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line)
                correct.append(float(row["label"] == row["gold"]))
                examples.append(_example(row))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    score = run.scores().get(_METRIC)
    if not correct or score is None or abs(sum(correct) / len(correct) - score) > _TOLERANCE:
        return None
    return examples, correct


def _example(row: dict[str, object]) -> str:
    return json.dumps({key: value for key, value in row.items() if key not in ("label", "probabilities", "choice")})
